// Preloaded by `torpor node`: programs in any directory find the SDK of this installation,
// unless they have their own.
import { registerHooks } from 'node:module';

const SDK = /^@torpor\/sdk(?:\/|$)/;

registerHooks({
  resolve(specifier, context, nextResolve) {
    try {
      return nextResolve(specifier, context);
    } catch (error) {
      if (!SDK.test(specifier) || error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
      return nextResolve(specifier, { ...context, parentURL: import.meta.url });
    }
  },
});
