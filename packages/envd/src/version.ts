/**
 * The version of E2B's envd whose protocol is served. SDKs switch features on by
 * it: 0.6.4 is the newest that they ask for.
 */
export const ENVD_VERSION = '0.6.4';
