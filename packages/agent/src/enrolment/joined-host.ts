/**
 * A host that has joined a control plane: it serves its agent to control planes, and reports
 * that it is up. It needs the control plane for nothing else: without it, sandboxes keep
 * running, and it keeps trying.
 */
import { X509Certificate } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type Client, type ConnectRouter, createClient } from '@connectrpc/connect';
import { type hostAgent, TorporError, enrolment as wire } from '@torpor/protocol';
import {
  CONTROL_PLANE_IDENTITY,
  isCurrent,
  issuedIdentity,
  type TlsCaller,
  type TlsCredentials,
  TlsServer,
  TlsTransport,
} from '@torpor/protocol/tls';
import type { Logger } from 'pino';
import { certificateRequest, newPrivateKey } from './certificate-request.ts';
import { type Enrolment, writeEnrolment } from './enrolment-file.ts';
import { addressOf, assertIssued, enrol, type JoinRequest } from './join.ts';
import { machineOf } from './machine.ts';

export interface JoinedHostOptions {
  readonly dataDir: string;
  /** Needed until the host has joined. */
  readonly join?: JoinRequest | undefined;
  /** Registers the HostAgentService. */
  readonly routes: (router: ConnectRouter) => void;
  /** What the host is and has, for heartbeats. */
  readonly describe: () => Promise<MessageInitShape<typeof hostAgent.DescribeHostResponseSchema>>;
  /** Every address of the machine if omitted. */
  readonly host?: string | undefined;
  /** Where to listen for control planes; 0 takes any free port. */
  readonly port: number;
  /** HOST:PORT at which control planes reach it; if omitted, where its heartbeats come from. */
  readonly address?: string | undefined;
  readonly logger: Logger;
  /** Called once if the host was deleted from the control plane. */
  readonly onDeleted: () => void;
  /** How often it reports that it is up; 10 s if omitted. */
  readonly heartbeatMs?: number | undefined;
}

const DEFAULT_HEARTBEAT_MS = 10_000;
const CALL_TIMEOUT_MS = 10_000;
/** A certificate is renewed when this much of the time that it had left has passed. */
const RENEW_AFTER = 2 / 3;
/** Between attempts to renew one that is due. */
const MIN_PAUSE_MS = 500;

export class JoinedHost implements AsyncDisposable {
  readonly #options: JoinedHostOptions;
  readonly #machine: string;
  readonly #server: TlsServer;
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;
  #enrolment: Enrolment;
  #renewAt: number;
  #transport: TlsTransport;
  #wasHeard = true;

  private constructor(
    options: JoinedHostOptions,
    machine: string,
    enrolment: Enrolment,
    server: TlsServer,
  ) {
    this.#options = options;
    this.#machine = machine;
    this.#enrolment = enrolment;
    this.#server = server;
    this.#renewAt = renewalTime(enrolment);
    this.#transport = this.#connect();
    this.#rounds = this.#repeat();
  }

  /** Joins if it has not, and serves the agent. Throws as `enrol`, and `host_setup` if it cannot listen. */
  static async open(options: JoinedHostOptions): Promise<JoinedHost> {
    const { dataDir, join, host, port, routes, logger } = options;
    const enrolment = await enrol(dataDir, join);
    const authority = new X509Certificate(enrolment.authority);
    const server = await TlsServer.listen({
      host,
      port,
      authority: enrolment.authority,
      credentials: credentialsOf(enrolment),
      routes,
      admits: (caller) => isControlPlane(caller, authority),
    });
    logger.info({ host: enrolment.host_id, port: server.port }, 'Listening for control planes');
    return new JoinedHost(options, await machineOf(dataDir), enrolment, server);
  }

  get hostId(): string {
    return this.#enrolment.host_id;
  }

  get port(): number {
    return this.#server.port;
  }

  /** Stops serving; sandboxes are not affected. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.#transport[Symbol.dispose]();
    await this.#rounds;
    await this.#server[Symbol.asyncDispose]();
  }

  async #repeat(): Promise<void> {
    const { heartbeatMs = DEFAULT_HEARTBEAT_MS } = this.#options;
    while (!this.#stopping.signal.aborted) {
      const isKnown = await this.#report();
      if (!isKnown) return this.#options.onDeleted();
      const untilRenewal = Math.max(this.#renewAt - Date.now(), MIN_PAUSE_MS);
      await pause(Math.min(heartbeatMs, untilRenewal), this.#stopping.signal);
    }
  }

  /** Reports that the host is up, and renews its certificate when that is due. Returns false if it was deleted. */
  async #report(): Promise<boolean> {
    const { logger } = this.#options;
    try {
      if (Date.now() >= this.#renewAt) await this.#renew();
      await this.#heartbeat();
      if (!this.#wasHeard) logger.info('The control plane accepts reports again');
      this.#wasHeard = true;
      return true;
    } catch (reason) {
      if (this.#stopping.signal.aborted) return true;
      const err = TorporError.from(reason);
      if (err.code === 'not_found') {
        logger.error({ err }, 'This host was deleted from the control plane');
        return false;
      }
      if (this.#wasHeard) logger.warn({ err }, 'Could not report to the control plane; will retry');
      this.#wasHeard = false;
      return true;
    }
  }

  async #heartbeat(): Promise<void> {
    const { address, describe } = this.#options;
    await this.#client().heartbeat(
      {
        ...(address === undefined ? {} : { address }),
        port: this.port,
        description: await describe(),
        machine: this.#machine,
      },
      this.#callOptions(),
    );
  }

  /** Gets a certificate for a new key. The old one stays valid, so that nothing is lost if this fails half-way. */
  async #renew(): Promise<void> {
    const { dataDir, logger } = this.#options;
    const { authority, host_id: hostId } = this.#enrolment;
    const privateKey = newPrivateKey();
    const csr = await certificateRequest(privateKey);
    const { certificate } = await this.#client().renew({ csr }, this.#callOptions());
    assertIssued(certificate, authority, hostId);
    const renewed = { ...this.#enrolment, certificate, private_key: privateKey };
    await writeEnrolment(dataDir, renewed);
    this.#enrolment = renewed;
    this.#renewAt = renewalTime(renewed);
    this.#server.renew(credentialsOf(renewed));
    // The next call is made with the new certificate.
    this.#transport[Symbol.dispose]();
    this.#transport = this.#connect();
    logger.info({ expiresAt: new X509Certificate(certificate).validToDate }, 'Certificate renewed');
  }

  #connect(): TlsTransport {
    const { url, authority } = this.#enrolment;
    return new TlsTransport({
      address: addressOf(url),
      authority,
      identity: CONTROL_PLANE_IDENTITY,
      credentials: () => credentialsOf(this.#enrolment),
    });
  }

  #client(): Client<typeof wire.EnrolmentService> {
    return createClient(wire.EnrolmentService, this.#transport);
  }

  #callOptions() {
    return { timeoutMs: CALL_TIMEOUT_MS, signal: this.#stopping.signal };
  }
}

function credentialsOf({ certificate, private_key: privateKey }: Enrolment): TlsCredentials {
  return { certificate, privateKey };
}

function renewalTime({ certificate }: Enrolment): number {
  const now = Date.now();
  const left = new X509Certificate(certificate).validToDate.getTime() - now;
  return now + left * RENEW_AFTER;
}

function isControlPlane({ certificate }: TlsCaller, authority: X509Certificate): boolean {
  return (
    certificate !== undefined &&
    isCurrent(certificate) &&
    issuedIdentity(certificate, authority) === CONTROL_PLANE_IDENTITY
  );
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return delay(ms, undefined, { signal }).catch(() => undefined);
}
