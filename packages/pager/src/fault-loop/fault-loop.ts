import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { PollSet, WakeUp } from '@torpor/linux';
import type { LoopEvent, LoopRequest } from './messages.ts';
import { describeMemory, ServedVm } from './served-vm.ts';

/**
 * A worker thread that serves the faults of several VMs. It blocks in ppoll(2), not in the
 * event loop: requests of the control thread come with a notification of the eventfd, whose
 * descriptor is posted first.
 */
function runFaultLoop(port: NonNullable<typeof parentPort>): void {
  using wakeUp = new WakeUp();
  const vms = new Map<string, ServedVm>();
  const emit = (event: LoopEvent) => port.postMessage(event);
  const poll = new PollSet();
  port.postMessage({ kind: 'started', wakeUpFd: wakeUp.fd });
  // As an array: walking a map allocates, and this is done for each fault.
  let served: readonly ServedVm[] = [];
  const watch = () => {
    served = [...vms.values()];
    poll.clear();
    poll.add(wakeUp.fd);
    for (const vm of served) for (const fd of vm.descriptors) poll.add(fd);
  };
  let changed = true;
  for (;;) {
    if (changed) watch();
    poll.wait(shortestTimeout(served));
    changed = false;
    if (poll.isReady(wakeUp.fd)) {
      changed = true;
      wakeUp.reset();
      for (
        let message = receiveMessageOnPort(port);
        message;
        message = receiveMessageOnPort(port)
      ) {
        const request: LoopRequest = message.message;
        if (request.kind === 'quit') return;
        handleRequest(request, vms, emit);
      }
    }
    for (const vm of served) {
      if (vm.step(poll) === 'descriptors-changed') changed = true;
      if (vm.isOver) vms.delete(vm.id);
    }
  }
}

/** How long the loop may wait; undefined: forever. */
function shortestTimeout(vms: readonly ServedVm[]): number | undefined {
  let shortest: number | undefined;
  for (const { timeoutMs } of vms) {
    if (timeoutMs !== undefined) shortest = Math.min(timeoutMs, shortest ?? timeoutMs);
  }
  return shortest;
}

function handleRequest(
  request: Exclude<LoopRequest, { kind: 'quit' }>,
  vms: Map<string, ServedVm>,
  emit: (event: LoopEvent) => void,
): void {
  if (request.kind === 'serve') {
    try {
      vms.set(request.vm, new ServedVm(request, emit));
      emit({ kind: 'listening', vm: request.vm });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      emit({ kind: 'failed', vm: request.vm, reason });
    }
    return;
  }
  const vm = vms.get(request.vm);
  if (request.kind === 'materialise') vm?.materialise();
  else if (request.kind === 'describe') {
    emit(vm?.describe(request.requestId) ?? describeMemory(request.vm, request.requestId));
  } else {
    vm?.end({ cause: 'stopped' });
    vms.delete(request.vm);
  }
}

if (parentPort !== null && workerData?.torporFaultLoop === true) runFaultLoop(parentPort);
