import { Torpor } from '@torpor/sdk';

await using torpor = new Torpor();
await using sandbox = await torpor.sandboxes.create({ memoryMiB: 512 });

await sandbox.files.write('hello.py', 'print("hello from", __import__("platform").node())');
const { stdout, exitCode } = await sandbox.exec('python3', ['hello.py'], { timeoutMs: 30_000 });
console.log(exitCode, stdout);

// A stream delivers output as it is printed, and accepts input if requested.
const script = 'for i in 1 2 3; do echo $i; sleep 1; done';
await using session = await sandbox.execStream('sh', ['-c', script]);
for await (const { stream, data } of session.output()) process[stream].write(data);
console.log(await session.wait());
