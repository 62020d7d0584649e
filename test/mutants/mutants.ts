/**
 * Ways to break the datapath, each undoing one invariant, or one part of it, in
 * the BPF source. `scripts/mutants` builds each and expects the named tests to fail.
 */
export interface Mutant {
  /** The invariant of docs/design.md that is taken out. */
  invariant: number;
  name: string;
  file: string;
  /** Must stand in the file exactly once. */
  from: string;
  to: string;
  /** Further changes, where two checks guard the same thing. */
  also?: readonly { from: string; to: string }[];
  /** Of test/kernel; default `invariants`. */
  suite?: string;
  /** Passed to mocha's --fgrep: at least one of these tests must fail. */
  tests: string;
}

const REDIRECT = 'redirect.bpf.c';
const RACES = '../races/races';

export const MUTANTS: readonly Mutant[] = [
  {
    invariant: 1,
    name: 'redirects before earlier TCP bytes are consumed',
    file: REDIRECT,
    from: 'if (peer->copied_seq != write_seq)',
    to: 'if (peer->copied_seq != write_seq && 0)',
    tests: '1: order',
  },
  {
    invariant: 1,
    name: 'takes what was found for one message for good',
    file: REDIRECT,
    from: `	if (direction->path != PATH_DIRECT || direction->direct_sequence != write_seq ||
	    leave`,
    to: '	if (leave',
    tests: '1: order',
  },
  {
    invariant: 2,
    name: 'finds no reason to leave where the last message had none',
    file: REDIRECT,
    from: `direction->direct_sequence != write_seq ||
	    leave != PASS_REASONS ||`,
    to: 'direction->direct_sequence != write_seq ||',
    tests: '2: no parked reader',
  },
  {
    invariant: 1,
    name: 'trusts neither order nor accounting',
    file: REDIRECT,
    from: `	if (peer->copied_seq != write_seq) {
		*reason = leave != PASS_REASONS ? leave : PASS_ORDER;
		return false;
	}
	if (direction->path == PATH_TCP && VIEW(tcp_sock, sk)->snd_una != write_seq) {
		*reason = leave != PASS_REASONS ? leave : PASS_UNACKNOWLEDGED;
		return false;
	}`,
    to: '	direction->path = PATH_DIRECT;',
    tests: '1: order',
  },
  {
    invariant: 2,
    name: 'has no fence after insertion',
    file: REDIRECT,
    from: 'if (direction->fence_sequence == write_seq)',
    to: 'if (0)',
    tests: '2: no parked reader',
  },
  {
    invariant: 2,
    name: 'ignores what the reader was seen to do',
    file: REDIRECT,
    from: 'if (READ_ONCE(pair->evidence[own ^ 1]) & pair->forbidden)',
    to: 'if (0)',
    tests: '2: no parked reader',
  },
  {
    invariant: 2,
    name: 'records no evidence',
    file: 'observe.bpf.c',
    from: '__sync_fetch_and_or(&pair->evidence[side], evidence);',
    to: '',
    tests: '2: no parked reader',
  },
  {
    invariant: 2,
    name: 'sends on when TCP bytes have overtaken redirected ones',
    file: REDIRECT,
    from: 'if (!settled && is_overtaken(',
    to: 'if (!settled && 0 && is_overtaken(',
    tests: '2: the guard',
  },
  {
    invariant: 2,
    name: 'does not ask for readers to be woken',
    file: REDIRECT,
    from: 'reader->crossing = direction->behind_received;',
    to: ';',
    tests: 'short receives',
  },
  {
    invariant: 5,
    name: 'redirects beyond the limit of a memory cgroup',
    file: REDIRECT,
    from: 'else if (is_memory_short(',
    to: 'else if (0 && is_memory_short(',
    tests: '5: a limit on memory',
  },
  {
    invariant: 4,
    name: 'takes a reset socket out with what waits for it',
    file: 'identify.bpf.c',
    from: 'if (is_in_sockmap(control) && may_leave(ctx, pair, endpoint->side & 1))',
    to: 'if (is_in_sockmap(control))',
    tests: '4: nothing is dropped on removal',
  },
  {
    invariant: 4,
    name: 'leaves a reset socket in the sockmap for good',
    file: 'identify.bpf.c',
    from: 'if (is_in_sockmap(control) && may_leave(ctx, pair, endpoint->side & 1))',
    to: 'if (0)',
    tests: '4: nothing is dropped on removal',
  },
  {
    invariant: 2,
    name: 'guards by the sums alone',
    file: REDIRECT,
    from: ` <= 0 ||
	    has_empty_queue((const struct sock *)address)) {`,
    to: ' <= 0) {',
    tests: '2: sums that never add up',
  },
  {
    invariant: 2,
    name: 'stays on redirection as long as something waits',
    file: REDIRECT,
    from: 'if (must_leave(direction, leave, keepalive) ||',
    to: 'if ((must_leave(direction, leave, keepalive) && 0) ||',
    tests: '2: ',
  },
  {
    invariant: 2,
    name: 'forgets at insertion what was redirected before',
    file: 'promote.bpf.c',
    from: 'consumed + pair->direction[side ^ 1].redirected_bytes - received',
    to: 'consumed - received',
    tests: '2: no parked reader',
  },
  {
    invariant: 2,
    name: 'redirects streams without a controller that wakes their readers',
    file: REDIRECT,
    from: 'return !direction->stream || (__s32)(ticks(direction) - settings->alive) > ALIVE_TICKS;',
    to: 'return !direction->stream;',
    suite: 'streams',
    tests: 'when their controller has gone',
  },
  {
    invariant: 2,
    name: 'never sends a message over TCP for the timers',
    file: REDIRECT,
    from: 'if (keepalive && pair->direction[own].path == PATH_DIRECT &&',
    to: 'if (0 && keepalive && pair->direction[own].path == PATH_DIRECT &&',
    tests: '2: keepalive',
  },
  {
    invariant: 2,
    name: 'does not compare what was received with what was consumed at insertion',
    file: 'promote.bpf.c',
    from: 'if (uncounted > 0 || (pair->adopted && uncounted))',
    to: 'if (0)',
    tests: '2: no parked reader',
  },
  {
    invariant: 2,
    name: 'does not compare what was received with what was consumed at a switch',
    file: REDIRECT,
    from: 'if (waiting < 0 || (direction->path == PATH_TCP && waiting != 0))',
    to: 'if (0)',
    tests: '2: no parked reader',
  },
  {
    invariant: 3,
    name: 'has no backlog limit',
    file: REDIRECT,
    from: 'return waiting + size + MESSAGE_OVERHEAD * (direction->unread_messages + 1ll) <= limit;',
    to: '(void)direction, (void)waiting, (void)size;\n\treturn limit != 0;',
    tests: '3: bounded memory',
  },
  {
    invariant: 3,
    name: 'does not count what a message costs besides its bytes',
    file: REDIRECT,
    from: '#define MESSAGE_OVERHEAD 1024',
    to: '#define MESSAGE_OVERHEAD 0',
    tests: '3: bounded memory',
  },
  {
    invariant: 1,
    name: 'leaves redirection while redirected data waits',
    file: REDIRECT,
    from: '(leave != PASS_REASONS && waiting <= 0)',
    to: '(leave != PASS_REASONS)',
    tests: 'short receives',
  },
  {
    invariant: 4,
    name: 'reports a pair as drained while data waits',
    file: 'promote.bpf.c',
    from: 'drained = received - (delivered - (next - copied));',
    to: 'drained = pair->direction[side ^ 1].redirected_bytes;',
    tests: '4: nothing is dropped',
  },
  {
    invariant: 4,
    name: 'goes on redirecting while a pair leaves',
    file: REDIRECT,
    from: 'if (state_of(control) == STATE_LEAVING)',
    to: 'if (0)',
    tests: '4: nothing is dropped',
  },
  {
    invariant: 4,
    name: 'forgets that a FIN was counted as a byte',
    file: 'promote.bpf.c',
    from: 'delivered--;',
    to: '',
    tests: '4: nothing is dropped',
  },
  {
    invariant: 5,
    name: 'redirects after own shutdown',
    file: REDIRECT,
    from: 'if (sk->sk_shutdown & SEND_SHUTDOWN)',
    to: 'if (0)',
    tests: '5: socket state',
  },
  {
    invariant: 5,
    name: 'redirects to a peer that shut down reading',
    file: REDIRECT,
    from: 'if (peer->shutdown & RCV_SHUTDOWN)',
    to: 'if (0)',
    tests: '5: socket state',
  },
  {
    invariant: 5,
    name: 'redirects outside ESTABLISHED',
    file: REDIRECT,
    from: 'else if (sk->__sk_common.skc_state != BPF_TCP_ESTABLISHED)',
    to: 'else if (0)',
    also: [{ from: 'else if (peer->state != BPF_TCP_ESTABLISHED)', to: 'else if (0)' }],
    tests: '5: socket state',
  },
  {
    invariant: 5,
    name: 'redirects from a zerocopy sender',
    file: REDIRECT,
    from: `else if (sk->__sk_common.skc_flags &
		 1ul << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY))`,
    to: 'else if (0)',
    tests: '5: socket state',
  },
  {
    invariant: 5,
    name: 'redirects to a reader with a low-water mark',
    file: REDIRECT,
    from: 'else if (peer->low_water_mark > 1)',
    to: 'else if (0)',
    tests: '5: socket state',
  },
  {
    invariant: 5,
    name: 'redirects under memory pressure',
    file: REDIRECT,
    from: 'else if (WORD_AT(pressure))',
    to: 'else if (0)',
    tests: '5: socket state',
  },
  {
    invariant: 6,
    name: 'reports what an address holds without asking whose it is',
    file: 'promote.bpf.c',
    from: '(__u64)MEMBER(sock, sk, __sk_common.skc_cookie.counter) != pair->cookie[side]',
    to: '0',
    tests: '6: peer identity',
  },
  {
    invariant: 6,
    name: 'does not compare the cookie of the peer',
    file: REDIRECT,
    from: 'return (__u64)MEMBER(sock, address, __sk_common.skc_cookie.counter) == cookie;',
    to: 'return cookie != 0;',
    tests: '6: peer identity',
  },
  {
    invariant: 6,
    name: 'does not compare generations',
    file: 'pair.h',
    from: 'return generation_of(*control) == endpoint->generation ? pair : NULL;',
    to: 'return pair;',
    tests: '6: peer identity',
  },
  {
    invariant: 6,
    name: 'believes the first of two clients that claim one handshake',
    file: 'identify.bpf.c',
    from: `	if (other) {
		disown(handshake, other, key);
		return;
	}
	if (!settings`,
    to: '	if (other)\n		return;\n	if (!settings',
    suite: 'pairing-forged',
    tests: 'both numbers',
  },
  {
    invariant: 6,
    name: 'forgets a handshake when the server has joined',
    file: 'identify.bpf.c',
    from: 'claim = __sync_fetch_and_or(&handshake->claim, CLAIM_JOINED);',
    to: 'claim = READ_ONCE(handshake->claim);\n	handshake->key = 0;',
    suite: 'pairing-forged',
    tests: 'both numbers',
  },
  {
    invariant: 6,
    name: 'keeps the generation when a slot is taken',
    file: 'claim.h',
    from: '(generation_of(pair->control) + 1)',
    to: 'generation_of(pair->control)',
    suite: RACES,
    tests: 'any schedule',
  },
  {
    invariant: 6,
    name: 'loses the slot that makes room for another one to rest',
    file: 'claim.h',
    from: 'bpf_map_push_elem(&free_slots, &rested, 0))',
    to: '0)',
    suite: RACES,
    tests: 'any schedule',
  },
  {
    invariant: 6,
    name: 'releases a slot that the server is joining',
    file: 'identify.bpf.c',
    from: '(state_of(control) == STATE_HALF && change_state(pair, control, STATE_CLOSED))',
    to: 'state_of(control) == STATE_HALF',
    suite: RACES,
    tests: 'any schedule',
  },
  {
    invariant: 6,
    name: 'counts a close again when the slot may be taken anew',
    file: 'identify.bpf.c',
    from: 'if (!endpoint || endpoint->closed)',
    to: 'if (!endpoint)',
    suite: RACES,
    tests: 'any schedule',
  },
  {
    invariant: 6,
    name: 'forgets the slot when the client closed while the server had no storage',
    file: 'identify.bpf.c',
    from: 'if (__sync_fetch_and_or(&pair->closed, 1 << SIDE_SERVER))',
    to: 'if (0)',
    suite: RACES,
    tests: 'any schedule',
  },
  {
    invariant: 7,
    name: 'drops when the redirect fails',
    file: REDIRECT,
    from: 'return pass(direction, PASS_LOST);',
    to: 'return SK_DROP;',
    tests: '7: fail open',
  },
  {
    invariant: 7,
    name: 'drops when its storage is missing',
    file: REDIRECT,
    from: `		COUNT(passed[PASS_UNTRACKED]);
		return SK_PASS;`,
    to: `		COUNT(passed[PASS_UNTRACKED]);
		return SK_DROP;`,
    tests: '7: fail open',
  },
];
