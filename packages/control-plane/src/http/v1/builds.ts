import { rest } from '@torpor/protocol';
import type { BuildReport, BuildService } from '../../builds/service.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';

const TAG = 'Builds';

const VERIFY = defineEndpoint({
  method: 'get',
  path: '/v1/builds',
  operationId: 'verifyBuilds',
  access: 'platform',
  summary: 'Read every build of the host back, and report which are damaged',
  tag: TAG,
  query: rest.verifyBuildsQuerySchema,
  responses: { 200: jsonResponse('A report for each build.', rest.buildReportListSchema) },
});

const COLLECT = defineEndpoint({
  method: 'post',
  path: '/v1/builds/collect',
  operationId: 'collectBuilds',
  access: 'platform',
  summary: 'Remove the builds that no sandbox or snapshot needs',
  tag: TAG,
  responses: { 200: jsonResponse('The removed builds.', rest.collectedBuildsSchema) },
});

/** For the operator of the host. */
export function addBuildRoutes(api: Api, builds: BuildService): void {
  addEndpoint(api, VERIFY, async (c) => {
    const reports = await builds.verify();
    return c.json({ builds: reports.map(presentReport) });
  });
  addEndpoint(api, COLLECT, async (c) => {
    const { removedBuildIds, freedBytes } = await builds.collect();
    const response: rest.CollectedBuilds = {
      removed_build_ids: [...removedBuildIds],
      freed_bytes: freedBytes,
    };
    return c.json(response);
  });
}

function presentReport({ buildId, sizeBytes, fault, references }: BuildReport): rest.BuildReport {
  return {
    build_id: buildId,
    size_bytes: sizeBytes,
    ...(fault === undefined ? {} : { fault }),
    references: [...references],
  };
}
