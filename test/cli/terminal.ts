/** A program on a pseudo-terminal, and what a person would see of it: the screen is kept by xterm's own emulator. */
import { Terminal as Emulator } from '@xterm/headless';

import type { Child, Sandbox } from '../kernel/support/sandbox.js';

/**
 * Holds the master's side (pty(7)); standard input has commands in JSON, a line each. Size and settings of the terminal
 * are asked for after the program has ended.
 */
const HOLDER = String.raw`
import base64, fcntl, json, os, pty, select, struct, sys, termios

def resize(fd, columns, rows):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

def say(**message):
    print(json.dumps(message), flush=True)

master, slave = pty.openpty()
resize(slave, int(sys.argv[1]), int(sys.argv[2]))
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.close(master)
    os.login_tty(slave) if hasattr(os, 'login_tty') else (os.setsid(), fcntl.ioctl(slave, termios.TIOCSCTTY, 0), [os.dup2(slave, fd) for fd in (0, 1, 2)])
    os.execvp(sys.argv[3], sys.argv[3:])
say(pid=pid)
commands, open_input = b'', True
while True:
    ready, _, _ = select.select([master] + ([sys.stdin.fileno()] if open_input else []), [], [], 0.02)
    if master in ready:
        say(output=base64.b64encode(os.read(master, 65536)).decode())
        continue
    if sys.stdin.fileno() in ready:
        data = os.read(sys.stdin.fileno(), 65536)
        open_input = bool(data)
        commands += data
        *lines, commands = commands.split(b'\n')
        for line in lines:
            command = json.loads(line)
            if 'keys' in command:
                os.write(master, command['keys'].encode())
            if 'resize' in command:
                resize(master, *command['resize'])
        continue
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        break
say(exit=os.waitstatus_to_exitcode(status), restored=termios.tcgetattr(slave) == before)
`;

interface Message {
  pid?: number;
  output?: string;
  exit?: number;
  restored?: boolean;
}

export class Terminal {
  readonly #holder: Child;
  readonly #emulator: Emulator;
  #read = 0;
  /** Everything that was written to the terminal. */
  output = '';

  constructor(sandbox: Sandbox, command: string[], columns = 100, rows = 24, env: Record<string, string> = {}) {
    this.#emulator = new Emulator({ cols: columns, rows, allowProposedApi: true });
    this.#holder = sandbox.spawn('python3', ['-u', '-c', HOLDER, String(columns), String(rows), ...command], {
      cgroup: null,
      // scripts/test forbids colours to what it starts.
      env: { TERM: 'xterm-256color', NO_COLOR: '', ...env },
    });
  }

  /** The program's process. */
  async pid(): Promise<number> {
    return this.#holder.until(() => this.#messages().find(({ pid }) => pid !== undefined)?.pid);
  }

  type(keys: string): void {
    this.#holder.write(JSON.stringify({ keys }));
  }

  resize(columns: number, rows: number): void {
    this.#emulator.resize(columns, rows);
    this.#holder.write(JSON.stringify({ resize: [columns, rows] }));
  }

  /** Waits for a screen that is as wanted, and returns its lines without blanks at their ends. */
  async until(wanted: (lines: string[]) => boolean): Promise<string[]> {
    for (;;) {
      await this.#update();
      const lines = this.lines();
      if (wanted(lines)) return lines;
      // What came while the emulator was at work is not on the screen yet.
      const seen = this.#read;
      try {
        await this.#holder.until(({ lines: said }) => (said.length > seen || this.#ended() ? true : undefined));
      } catch (error) {
        throw new Error(`the program has ended, its screen was:\n${lines.join('\n')}`, { cause: error });
      }
      if (this.#ended() && this.#read === this.#holder.lines.length) {
        throw new Error(`the program has ended, its screen was:\n${lines.join('\n')}`);
      }
    }
  }

  lines(): string[] {
    const { active } = this.#emulator.buffer;
    const { rows, cols } = this.#emulator;
    // Behind a terminal that was made narrower, the emulator keeps what nobody sees.
    return Array.from(
      { length: rows },
      (_, row) => active.getLine(active.baseY + row)?.translateToString(true, 0, cols) ?? '',
    );
  }

  /** Which of its two screens the terminal shows: full-screen programs use the other one. */
  get screen(): 'normal' | 'alternate' {
    return this.#emulator.buffer.active.type;
  }

  /** Its exit code, minus the signal's number if one ended it, and whether the terminal is as it was. */
  async exited(): Promise<{ code: number; restored: boolean }> {
    const { exit = NaN, restored = false } = await this.#holder.until(() =>
      this.#messages().find(({ exit: code }) => code !== undefined),
    );
    await this.#update();
    return { code: exit, restored };
  }

  #messages(): Message[] {
    return this.#holder.lines.map((line) => JSON.parse(line) as Message);
  }

  #ended(): boolean {
    return this.#holder.lines.at(-1)?.includes('"exit"') === true;
  }

  async #update(): Promise<void> {
    const fresh = this.#messages().slice(this.#read);
    this.#read += fresh.length;
    for (const { output } of fresh) {
      if (output === undefined) continue;
      const bytes = Buffer.from(output, 'base64');
      this.output += bytes.toString('latin1');
      await new Promise<void>((resolve) => {
        this.#emulator.write(bytes, resolve);
      });
    }
  }
}
