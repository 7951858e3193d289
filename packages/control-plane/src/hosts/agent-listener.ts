import { ConnectError, type ConnectRouter, type Interceptor } from '@connectrpc/connect';
import { enrolment, TorporError } from '@torpor/protocol';
import { TLS_CALLER, type TlsCaller, TlsServer } from '@torpor/protocol/tls';
import type { Logger } from 'pino';
import type { Authority } from './authority.ts';
import { capacityFacts, reportOfDescription } from './description.ts';
import { sha256 } from './digest.ts';
import type { Enrolment } from './enrolment.ts';
import type { OwnCertificate } from './own-certificate.ts';
import type { Heartbeat } from './repository.ts';

interface Parts {
  readonly host: string | undefined;
  readonly port: number;
  readonly authority: Authority;
  readonly certificate: OwnCertificate;
  readonly enrolment: Enrolment;
  readonly logger: Logger;
}

/** Anyone can send one. */
const MAX_MESSAGE_BYTES = 64 * 1024;

/** Serves agents: joins, renewals and heartbeats. Throws `host_setup` if it cannot listen. */
export async function openAgentListener(
  parts: Parts,
  resources: AsyncDisposableStack,
): Promise<TlsServer> {
  const { host, port, authority, certificate, logger } = parts;
  const server = await TlsServer.listen({
    host,
    port,
    authority: authority.certificate,
    credentials: certificate.current,
    routes: (router) => routes(router, parts),
    // Each call checks its caller: one that joins has no certificate yet.
    admits: () => true,
    readMaxBytes: MAX_MESSAGE_BYTES,
  });
  resources.use(server);
  certificate.onRenewed((credentials) => server.renew(credentials));
  logger.info({ port: server.port }, 'Listening for agents');
  return server;
}

function routes(router: ConnectRouter, { enrolment: hosts, logger }: Parts): void {
  router.service(
    enrolment.EnrolmentService,
    {
      join: async ({ token, csr }) => hosts.join(token, csr),
      renew: async ({ csr }, { values }) => hosts.renew(values.get(TLS_CALLER), csr),
      heartbeat: async (request, { values }) => {
        const caller = values.get(TLS_CALLER);
        await hosts.heartbeat(caller, heartbeatOf(request, caller));
        return {};
      },
    },
    { interceptors: [withErrorDetails(logger)] },
  );
}

function heartbeatOf(
  { address, port, capacity, description, machine }: enrolment.HeartbeatRequest,
  caller: TlsCaller,
): Heartbeat {
  const at = caller.address.includes(':') ? `[${caller.address}]` : caller.address;
  const report =
    description === undefined
      ? { facts: capacityFacts(capacity) }
      : reportOfDescription(description);
  return {
    ...report,
    address: checkedAddress(address ?? `${at}:${port}`),
    machine: machine && sha256(machine),
  };
}

/** Throws `invalid_request` for what is not HOST:PORT. */
function checkedAddress(address: string): string {
  const hasForm = /^[^/?#@\s]{1,255}:[1-9]\d{0,4}$/.test(address);
  if (hasForm && URL.canParse(`https://${address}`)) return address;
  throw new TorporError('invalid_request', 'The address of the agent is not HOST:PORT.', {
    remedy: 'Correct the setting host_address of the agent.',
  });
}

function withErrorDetails(logger: Logger): Interceptor {
  return (next) => async (request) => {
    try {
      return await next(request);
    } catch (reason) {
      if (reason instanceof ConnectError) throw reason;
      const error = TorporError.from(reason);
      if (error.code === 'internal_error') {
        logger.error({ err: reason, procedure: request.method.name }, 'Call of an agent failed');
      }
      throw error.toConnectError();
    }
  };
}
