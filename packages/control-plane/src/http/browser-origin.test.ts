import { expect, test } from 'vitest';
import { headersOf, originOf } from './browser-origin.ts';

const HOST = 'torpor.test:7070';

test.each<[Record<string, string>, string | undefined, string]>([
  [{}, undefined, 'unknown'],
  [{ origin: `http://${HOST}` }, undefined, 'same'],
  [{ origin: `https://${HOST}` }, undefined, 'same'],
  [{ origin: 'http://torpor.test' }, undefined, 'foreign'],
  [{ origin: 'http://torpor.test:7071' }, undefined, 'foreign'],
  [{ origin: 'http://evil.test' }, undefined, 'foreign'],
  [{ origin: `http://evil.test/?${HOST}` }, undefined, 'foreign'],
  [{ origin: `http://${HOST}.evil.test` }, undefined, 'foreign'],
  [{ origin: 'null' }, undefined, 'foreign'],
  [{ origin: '' }, undefined, 'foreign'],
  [{ origin: 'https://box.example.com' }, 'https://box.example.com', 'same'],
  [{ origin: 'http://box.example.com' }, 'https://box.example.com', 'foreign'],
  [{ origin: `https://${HOST}` }, `https://${HOST}`, 'same'],
  [{ origin: `http://${HOST}` }, `https://${HOST}`, 'foreign'],
  [{ origin: `http://${HOST}` }, 'https://box.example.com', 'same'],
  [{ 'sec-fetch-site': 'same-origin' }, undefined, 'same'],
  [{ 'sec-fetch-site': 'none' }, undefined, 'same'],
  [{ 'sec-fetch-site': 'same-site' }, undefined, 'foreign'],
  [{ 'sec-fetch-site': 'cross-site' }, undefined, 'foreign'],
  [{ origin: 'http://evil.test', 'sec-fetch-site': 'same-origin' }, undefined, 'foreign'],
])('%j at %s is %s', (headers, publicUrl, expected) => {
  expect(originOf(headersOf({ host: HOST, ...headers }), publicUrl)).toBe(expected);
});
