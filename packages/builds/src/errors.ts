import { TorporError } from '@torpor/protocol';

/**
 * A build, or a file of one, that cannot be used: torn, of another version, or referring to
 * missing builds. `path` is the file at fault.
 */
export class BuildFormatError extends TorporError {
  readonly path: string;

  constructor(path: string, what: string, remedy?: string) {
    super('build_invalid', `${path}: ${what}`, remedy === undefined ? {} : { remedy });
    this.path = path;
  }
}
