import { argv, kill, pid, stdout } from 'node:process';
import type { VmmDriver } from '@torpor/vmm';

// Starts a machine, prints its description, and dies as a killed host agent does.

const [, , driverModule = '', spec = ''] = argv;
const { default: createDriver }: { default: () => Promise<VmmDriver> } = await import(driverModule);
const driver = await createDriver();
const vm = await driver.start(JSON.parse(spec));
stdout.write(JSON.stringify(vm.description), () => kill(pid, 'SIGKILL'));
