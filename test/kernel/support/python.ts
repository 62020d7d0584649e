/** Sockets of a Python process, for system calls that the endpoint program lacks. */
import type { Exchange } from './pairing.js';
import type { Child, Sandbox, SpawnOptions } from './sandbox.js';

/** Each line of input is an expression or statements; the answer is its value. */
const PYTHON_LOOP = String.raw`
import ctypes, hashlib, json, os, select, socket, struct, sys
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_WINDOW = 19, 20, 21, 29
RECEIVE_QUEUE, SEND_QUEUE, NO_PROBE = 1, 2, -1
HOME = '127.0.0.1'
libc = ctypes.CDLL(None, use_errno=True)

def listener(protocol=0, backlog=128, at=0, **options):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for name, value in options.items():
        s.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    s.bind((HOME, at))
    s.listen(backlog)
    return s

def client(of, protocol=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    s.connect(of.getsockname())
    return s

def connection(of):
    c = client(of)
    return c, of.accept()[0]

def port(s):
    return s.getsockname()[1]

def receive(s, size):
    data = b''
    while len(data) < size:
        poll = select.poll()
        poll.register(s, select.POLLIN)
        assert poll.poll(10000), 'nothing came'
        part = s.recv(size - len(data), socket.MSG_DONTWAIT)
        assert part, 'end of stream'
        data += part
    return data

def move(a, b, size):
    data = os.urandom(size)
    a.sendall(data)
    assert receive(b, size) == data, 'the data differ'

def exchange(a, b, count, size):
    for _ in range(count):
        move(a, b, size)
        move(b, a, size)

def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()

def disconnect(s):
    if libc.connect(s.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16):
        raise OSError(ctypes.get_errno(), 'connect')

def cookie(s):
    return str(struct.unpack('Q', s.getsockopt(socket.SOL_SOCKET, 57, 8))[0]) # SO_COOKIE

# Sockets made from now on belong to this network namespace.
def enter(netns):
    with open('/run/netns/' + netns) as file:
        if libc.setns(file.fileno(), 0x40000000): # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), 'setns')

# What one end of a connection says in one round: both ends can tell, and nobody else says the same.
def words(key, end, number, size):
    return hashlib.shake_128(f'{key} {end} {number}'.encode()).digest(size)

# Runs one end of many connections, by key, through rounds of question and answer. Every byte is checked.
def converse(ends, end, first, rounds, size):
    other = {'client': 'server', 'server': 'client'}[end]
    keys = {s.fileno(): key for key, s in ends.items()}
    number, heard = dict.fromkeys(ends, first), dict.fromkeys(ends, b'')
    poll = select.epoll()
    for key, s in ends.items():
        poll.register(s, select.EPOLLIN)
        if end == 'client':
            s.sendall(words(key, end, first, size))
    left = len(ends)
    while left:
        ready = poll.poll(10)
        assert ready, f'{left} heard nothing: {[(key, number[key]) for key in ends][:5]}'
        for fd, _ in ready:
            key = keys[fd]
            part = ends[key].recv(size - len(heard[key]), socket.MSG_DONTWAIT)
            assert part, f'{key}: end of stream'
            heard[key] += part
            if len(heard[key]) < size:
                continue
            assert heard[key] == words(key, other, number[key], size), f'{key}: what was heard in round {number[key]} is not what its peer said'
            heard[key] = b''
            if end == 'server':
                ends[key].sendall(words(key, end, number[key], size))
            number[key] += 1
            if number[key] == first + rounds:
                left -= 1
            elif end == 'client':
                ends[key].sendall(words(key, end, number[key], size))

# Sequence numbers of what this socket sends and receives next.
def sequences(s):
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    numbers = []
    for queue in SEND_QUEUE, RECEIVE_QUEUE:
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        numbers.append(s.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xffffffff)
    return numbers

# A socket that is established without a handshake and still in repair mode.
def restored(own, peer, numbers):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    s.bind(own)
    for queue, number in zip((SEND_QUEUE, RECEIVE_QUEUE), numbers):
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        s.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack('I', number))
    s.connect(peer)
    return s

def end_repair(s, how=0):
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, how)

# A socket whose first sequence number will be this one.
def beginning_with(number):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
    s.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack('I', number))
    end_repair(s)
    return s

# What checkpoint and restore do to a socket whose queues are empty.
def restore(s):
    numbers, own, peer = sequences(s), s.getsockname(), s.getpeername()
    window = s.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)
    s.close()
    s = restored(own, peer, numbers)
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, window)
    return s

# The names here are nobody else's.
def serve():
    for line in sys.stdin:
        code, answer = json.loads(line), {}
        try:
            try:
                answer['value'] = eval(compile(code, 'test', 'eval'), globals())
            except SyntaxError:
                exec(code, globals())
        except Exception as error:
            answer['error'] = repr(error)
        print(json.dumps(answer), flush=True)

serve()
`;

export class Python {
  readonly #child: Child;
  #answers = 0;

  /** @param through a command that runs the command in its arguments, such as unshare(1) */
  constructor(sandbox: Sandbox, options: SpawnOptions = {}, through: readonly string[] = []) {
    const python = ['-u', '-c', PYTHON_LOOP];
    const [command, ...args] = through;
    this.#child =
      command === undefined
        ? sandbox.spawn('python3', python, options)
        : sandbox.spawn(command, [...args, 'python3', ...python], options);
  }

  /** Of the process, which is `through` in the beginning. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Runs code; returns the value of an expression. */
  async run<T = unknown>(code: string): Promise<T> {
    const line = this.#answers++;
    this.#child.write(JSON.stringify(code));
    const text = await this.#child.until(({ lines }) => lines[line]);
    const answer = JSON.parse(text) as { value?: T; error?: string };
    if (answer.error !== undefined) throw new Error(`${code}: ${answer.error}`);
    return answer.value as T;
  }

  /** Between two of its sockets. */
  exchange(a: string, b: string): Exchange {
    return (count, size) => this.run(`exchange(${a}, ${b}, ${String(count)}, ${String(size)})`);
  }
}
