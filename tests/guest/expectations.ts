/** One line of the table: the expected output of a program in the guest. */
export interface Expectation {
  readonly what: string;
  /** For bash, as the user of the image unless `user` says otherwise. */
  readonly script: string;
  readonly user?: string;
  /** All of the output, without the last newline. */
  readonly prints: string | RegExp;
}

/** The environment of programs in a Debian container, or after Debian's own init. */
export const EXPECTATIONS: readonly Expectation[] = [
  // Devices
  { what: 'process substitution', script: 'cat <(echo x)', prints: 'x' },
  {
    what: 'the standard streams as files',
    script: 'readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr; echo x >/dev/stdout',
    prints: '/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\nx',
  },
  {
    what: 'root writing to /dev/stderr makes no file',
    script: 'echo x >/dev/stderr; stat -c %F /dev/stderr',
    user: 'root',
    prints: 'symbolic link',
  },
  {
    what: 'devices and their permissions',
    script:
      'stat -c "%a %U:%G %n" /dev/{null,zero,full,random,urandom,tty,fuse,net/tun,ptmx,loop-control,kmsg,mem}',
    prints: [
      '666 root:root /dev/null',
      '666 root:root /dev/zero',
      '666 root:root /dev/full',
      '666 root:root /dev/random',
      '666 root:root /dev/urandom',
      '666 root:root /dev/tty',
      '666 root:root /dev/fuse',
      '666 root:root /dev/net/tun',
      '666 root:root /dev/ptmx',
      '660 root:disk /dev/loop-control',
      '644 root:root /dev/kmsg',
      '600 root:root /dev/mem',
    ].join('\n'),
  },
  {
    what: 'terminals belong to the group tty',
    script: `python3 -c 'import os,pty; m,s=pty.openpty(); st=os.fstat(s); print(oct(st.st_mode&0o777), st.st_gid)'`,
    prints: '0o620 5',
  },
  {
    what: 'a tun device, whose module loads by itself',
    script:
      'ip tuntap add dev tun9 mode tun && ip -br link show tun9 | cut -d" " -f1; ip link del tun9',
    user: 'root',
    prints: 'tun9',
  },
  {
    what: 'a file as a file system, by a loop device',
    script:
      'cd /tmp && truncate -s 16M disk && mkfs.ext4 -q disk && mkdir -p m && mount disk m && stat -f -c %T m && umount m',
    user: 'root',
    prints: 'ext2/ext3',
  },
  // Limits
  {
    what: 'as many files can be open as the limit says, also in a small guest',
    script: 'python3 -c \'import os; print(len([os.open("/dev/null", 0) for _ in range(65000)]))\'',
    prints: '65000',
  },
  {
    what: 'limits',
    script: 'ulimit -Sn; ulimit -Hn; ulimit -Ss; ulimit -Sc; ulimit -Hc; ulimit -v',
    prints: '65536\n1048576\n8192\n0\nunlimited\nunlimited',
  },
  { what: 'the umask', script: 'umask', prints: '0022' },
  {
    what: 'more than 4,096 open files',
    script: `python3 -c 'import os; print(len([os.open("/", 0) for _ in range(5000)]))'`,
    prints: '5000',
  },
  {
    what: 'kernel parameters',
    script:
      'cd /proc/sys; tail -qn1 fs/protected_{hardlinks,symlinks,fifos,regular} fs/inotify/max_user_{instances,watches} vm/max_map_count kernel/pid_max net/ipv4/ip_unprivileged_port_start kernel/modprobe',
    prints: '1\n1\n1\n2\n1024\n524288\n1048576\n4194304\n0\n/.torpor/bin/modprobe',
  },
  {
    what: 'a port below 1024 for everybody',
    script: `python3 -c 'import socket; s=socket.create_server(("",80)); print(s.getsockname()[1])'`,
    prints: '80',
  },
  {
    what: 'ping without root',
    script: 'ping -c1 -W5 127.0.0.1 | grep -c "bytes from"',
    prints: '1',
  },
  {
    what: 'namespaces without root',
    script: 'unshare --user --map-root-user --mount --pid --fork id -u',
    prints: '0',
  },
  // Mounts
  {
    what: 'mounts',
    script:
      'for m in / /proc /sys /sys/fs/cgroup /dev /dev/pts /dev/shm /dev/mqueue /run; do findmnt -no TARGET,FSTYPE,PROPAGATION $m | tr -s " "; done',
    prints: [
      '/ overlay shared',
      '/proc proc shared',
      '/sys sysfs shared',
      '/sys/fs/cgroup cgroup2 shared',
      '/dev devtmpfs shared',
      '/dev/pts devpts shared',
      '/dev/shm tmpfs shared',
      '/dev/mqueue mqueue shared',
      '/run tmpfs shared',
    ].join('\n'),
  },
  {
    what: 'directories for everybody',
    script:
      'stat -c "%a %n" /tmp /var/tmp /dev/shm /dev/mqueue /var/lock/; readlink /etc/mtab /var/run',
    prints:
      '1777 /tmp\n1777 /var/tmp\n1777 /dev/shm\n1777 /dev/mqueue\n1777 /var/lock/\n../proc/self/mounts\n/run',
  },
  {
    what: 'groups of control, for root to make',
    script:
      'mkdir /sys/fs/cgroup/mine && cat /sys/fs/cgroup/mine/cgroup.type && rmdir /sys/fs/cgroup/mine; cat /sys/fs/cgroup/cgroup.controllers',
    user: 'root',
    prints: /^domain\n.*\bcpu\b.*\bmemory\b.*\bpids\b/,
  },
  // Modules
  {
    what: 'modules for containers and file systems',
    script:
      'for m in bridge br_netfilter veth nf_tables nft_compat nf_nat xt_MASQUERADE vxlan macvlan ipvlan wireguard squashfs xfs btrfs nbd dm_mod binfmt_misc; do modinfo -F name $m; done | wc -l',
    prints: '17',
  },
  {
    what: 'a module that is loaded by name, with those that it needs',
    script: 'modprobe br_netfilter && cat /proc/sys/net/bridge/bridge-nf-call-iptables',
    user: 'root',
    prints: '1',
  },
  {
    what: 'a file system whose module loads by itself',
    script:
      'mkdir -p /tmp/misc && mount -t binfmt_misc none /tmp/misc && ls /tmp/misc && umount /tmp/misc',
    user: 'root',
    prints: 'register\nstatus',
  },
  // Environment
  {
    what: 'the environment of the user',
    script: 'env | grep -vE "^(PWD|SHLVL|_|OLDPWD|TORPOR|E2B)" | sort',
    prints: [
      'HOME=/home/user',
      'LANG=C.UTF-8',
      'LOGNAME=user',
      'PATH=/home/user/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'SHELL=/bin/bash',
      'USER=user',
      'XDG_RUNTIME_DIR=/run/user/1000',
    ].join('\n'),
  },
  {
    what: 'the environment of root',
    script: 'echo $HOME $USER $LANG $PATH $XDG_RUNTIME_DIR; stat -c "%a %U" $XDG_RUNTIME_DIR',
    user: 'root',
    prints:
      '/root root C.UTF-8 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /run/user/0\n700 root',
  },
  { what: 'a locale with UTF-8', script: `locale charmap; printf 'ä' | wc -m`, prints: 'UTF-8\n1' },
  {
    what: 'its own name',
    script:
      'getent hosts "$(hostname)" | tr -s " " | cut -d" " -f1; getent hosts localhost | tr -s " " | cut -d" " -f1',
    prints: /^127\.0\.[01]\.1\n(?:::1|127\.0\.0\.1)$/,
  },
  // Signals and exit statuses, as a shell sees them
  {
    what: 'no signal is blocked or ignored',
    script: 'grep -E "^Sig(Blk|Ign)" /proc/self/status',
    prints: 'SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000',
  },
  {
    what: 'exit statuses in a login shell',
    script:
      'for c in no-such /etc /etc/passwd "exit 7" "kill -9 \\$\\$"; do bash -lc "$c" 2>/dev/null; echo $?; done',
    prints: '127\n126\n126\n7\n137',
  },
  // What developers run
  {
    what: 'the tools',
    script:
      'command -v ping wget jq make gcc g++ vim rsync zip unzip file lsof strace dig nc tree git curl python3 pip node npm | wc -l',
    prints: '22',
  },
  {
    what: 'pip install as the user, and what it installed',
    script: [
      'mkdir -p /tmp/p && cd /tmp/p',
      `python3 - <<'END'
import zipfile
with zipfile.ZipFile('hey-1-py3-none-any.whl', 'w') as wheel:
    info = 'hey-1.dist-info/'
    wheel.writestr('hey.py', 'def main(): print(6*7)')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: hey\\nVersion: 1\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\nhey = hey:main\\n')
    wheel.writestr(info + 'RECORD', '')
END`,
      'pip install -q --no-index ./hey-1-py3-none-any.whl && hey',
    ].join('\n'),
    prints: '42',
  },
  {
    what: 'a virtual environment',
    script:
      'python3 -m venv /tmp/venv && . /tmp/venv/bin/activate && pip --version | cut -d" " -f1 && which python',
    prints: 'pip\n/tmp/venv/bin/python',
  },
  {
    what: 'npm ci from a tarball',
    script: [
      'mkdir -p /tmp/n/package && cd /tmp/n',
      `echo '{"name":"dep","version":"1.0.0","main":"i.js"}' > package/package.json`,
      'echo "module.exports = 6*7" > package/i.js; tar -czf dep.tgz package',
      `echo '{"name":"app","version":"1.0.0","dependencies":{"dep":"file:dep.tgz"}}' > package.json`,
      `echo '{"name":"app","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{"":{"name":"app","version":"1.0.0","dependencies":{"dep":"file:dep.tgz"}},"node_modules/dep":{"version":"1.0.0","resolved":"file:dep.tgz"}}}' > package-lock.json`,
      `npm ci --offline --no-audit --no-fund --silent && node -p 'require("dep")'`,
    ].join('\n'),
    prints: '42',
  },
  {
    what: 'a build with make',
    script: [
      'mkdir -p /tmp/b && cd /tmp/b',
      `printf '#include <stdio.h>\\nint main(void){puts("built");return 0;}\\n' > hello.c`,
      `printf 'hello: hello.c\\n\\t$(CC) -O1 -o $@ $<\\n' > Makefile`,
      'make -s && ./hello',
    ].join('\n'),
    prints: 'built',
  },
];
