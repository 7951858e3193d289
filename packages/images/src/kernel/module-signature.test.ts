import { expect, test } from 'vitest';
import { withoutSignature } from './module-signature.ts';

const MARK = Buffer.from('~Module signature appended~\n');

function signed(module: string, signature: string, length = signature.length): Buffer {
  const description = Buffer.alloc(12);
  description.writeUInt32BE(length, 8);
  return Buffer.concat([Buffer.from(module), Buffer.from(signature), description, MARK]);
}

test('a signature is removed', () => {
  expect(withoutSignature(signed('the module', 'PKCS#7')).toString()).toBe('the module');
});

test('a module without a signature is unchanged', () => {
  expect(withoutSignature(Buffer.from('the module')).toString()).toBe('the module');
});

test('a signature that is longer than the file is refused', () => {
  expect(() => withoutSignature(signed('', 'short', 6))).toThrow('longer than itself');
  expect(() => withoutSignature(MARK)).toThrow('longer than itself');
});
