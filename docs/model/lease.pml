/* The protocol of a lease: one card that holds CAPACITY leases, HOLDERS who each come ROUNDS times under one name, an
 * agent, a network that delivers late and twice, a clock, and a ledger that may lose everything once.
 *
 * Each ATOMIC step of the ledger is one of its scripts. Between any two steps anybody may be paused for as long as it takes:
 * that is what interleaving means. A guard is switched off by -DNO_...; each is shown to be needed by the search finding a
 * wrong without it. See README.md.
 */
#define HOLDERS 2
#ifndef CAPACITY
#define CAPACITY 1
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
/* Guards, each switched off by its -D. */
#ifndef NO_SETTLING
#define SETTLED !settling
#else
#define SETTLED true
#endif
#ifndef NO_NONCE
#define FIRST_DELIVERY(i, round) (ended[i] < round)
#else
#define FIRST_DELIVERY(i, round) true
#endif
#ifndef NO_TOKEN_CHECK
#define HOLDS(i, t) (state[i] != NONE && token[i] == t)
#else
#define HOLDS(i, t) (state[i] != NONE)
#endif
#ifndef CONFIRM_WITHOUT_TOKEN
#define ABOUT_THIS(i, seen) (token[i] == seen)
#else
#define ABOUT_THIS(i, seen) true
#endif

#define NONE 0
#define ACTIVE 1
#define RECLAIMING 2

byte state[HOLDERS];     /* the lease under holder i's name */
byte token[HOLDERS];     /* its token */
bool started[HOLDERS];   /* its process is noted: it passed the start gate */
byte ended[HOLDERS];     /* the round whose lease ended last under this name: the tombstone's nonce */
byte counter;            /* the ledger's last token */
byte highest;            /* the highest token ever given: of the proof, not of the ledger */
bool settling, lost;
hidden byte n, got;      /* of one step only: not part of a state */

byte mine[HOLDERS];      /* the token that the holder has, 0 without */
byte turn[HOLDERS];      /* the holder's round */
bool alive[HOLDERS];     /* its process of this round may still take memory, or has some */
bool running[HOLDERS];   /* it passed the start gate and has not ended */
bool using[HOLDERS];     /* memory is really in use by it */

byte late_acquire[HOLDERS];   /* a request of that round is still on its way, or will be delivered once more */
byte late_release[HOLDERS];   /* a release with that token is */

inline leases(n) { n = (state[0] != NONE) + (state[1] != NONE) }
inline in_use(n) { n = using[0] + using[1] }

/* acquire.lua: `round` is the call's nonce; who answers is told by mine[i] only if the reply arrives. */
inline grant(i) {
  counter = counter + 1;
  assert(counter > highest);                       /* law 5: tokens grow, also over a loss */
  highest = counter;
  state[i] = ACTIVE; token[i] = counter; started[i] = false
}

inline acquire(i, round, got) {
  got = 0;
  leases(n);
  if
  :: state[i] == ACTIVE && turn[i] == round ->
#ifndef NO_IDEMPOTENCE
       got = token[i]                              /* the same name and request: the same lease */
#else
       if :: n < CAPACITY -> assert(false) :: else -> skip fi   /* taken twice: the first one's bytes are nobody's */
#endif
  :: state[i] == NONE && n < CAPACITY && SETTLED && FIRST_DELIVERY(i, round) ->
       grant(i); got = token[i];
       assert(turn[i] == round && ended[i] < round)   /* else nobody is there to hold it */
  :: else -> skip
  fi
}

inline end_lease(i) { state[i] = NONE; started[i] = false; ended[i] = turn[i] }

proctype Holder(byte i; byte rounds) {
  byte round = 1;
  do
  :: round <= rounds ->
     d_step { turn[i] = round; alive[i] = true; mine[i] = 0; late_acquire[i] = round }
     do                                                               /* asks until it is granted, or gives up */
     :: atomic { acquire(i, round, got);
          if :: got != 0 -> mine[i] = got; break                      /* the reply arrived */
             :: true -> skip                                          /* refused, or the reply was lost: it asks again */
          fi }
     :: atomic { mine[i] == 0 && state[i] == NONE -> goto over }
     od;
     /* start.lua: the start gate */
     atomic {
#ifndef NO_START_GATE
       if
       :: state[i] == ACTIVE && token[i] == mine[i] -> started[i] = true; running[i] = true
       :: else -> goto over
       fi
#else
       if :: state[i] == ACTIVE && token[i] == mine[i] -> started[i] = true :: else -> skip fi;
       running[i] = true
#endif
     };
     atomic { using[i] = true; in_use(n); assert(n <= CAPACITY); n = 0 };    /* two jobs never use the same bytes */
     atomic { using[i] = false; alive[i] = false; running[i] = false };                   /* ended, killed or crashed: the memory is back */
     atomic {                                                         /* release.lua; or it crashed and says nothing */
       late_release[i] = mine[i];
       if
       :: state[i] != NONE && token[i] == mine[i] -> end_lease(i)
       :: true -> skip
       fi
     };
over:
     atomic { alive[i] = false; using[i] = false; running[i] = false; mine[i] = 0;
       if :: state[i] == NONE && ended[i] < round -> ended[i] = round :: else -> skip fi };  /* cancel.lua, or its silence */
     atomic { state[i] == NONE -> round = round + 1 }                 /* the name is free again */
  :: else -> break
  od
}

/* Whatever was on its way arrives late, or once more. */
inline deliver(i) {
  atomic { late_acquire[i] != 0 -> acquire(i, late_acquire[i], got); late_acquire[i] = 0; got = 0; n = 0 }
}
inline deliver_release(i) {
  atomic { late_release[i] != 0 ->
    if
    :: HOLDS(i, late_release[i]) -> end_lease(i)
    :: else -> skip
    fi;
    late_release[i] = 0 }
}
proctype Network() {
  do
  :: deliver(0)
  :: deliver(1)
  :: deliver_release(0)
  :: deliver_release(1)
  od
}

/* renew.lua, by a process beside the holder's: a ledger that knows of no such lease is told of it by register.lua. */
inline renew(i) {
  atomic { state[i] == NONE && settling && running[i] && mine[i] != 0 ->
    state[i] = ACTIVE; token[i] = mine[i]; started[i] = true }
}
proctype Renewer() {
  do
  :: renew(0)
  :: renew(1)
  od
}

/* Time passes: a lease that nobody renews is over. Its holder may be paused, with its memory. */
inline expire(i) {
  atomic { state[i] == ACTIVE && !settling ->
#ifndef NO_TWO_PHASE
    state[i] = RECLAIMING }
#else
    end_lease(i) }
#endif
}
/* The lock delay, where no process is noted: it has not passed the gate, and will not any more. */
inline delay(i) {
  atomic { state[i] == RECLAIMING && !started[i] && !settling -> end_lease(i) }
}
proctype Clock() {
  do
  :: expire(0)
  :: expire(1)
  :: delay(0)
  :: delay(1)
  od
}

/* An agent looks, and its word arrives later: by then the name may have another lease. */
proctype Agent(byte i) {
  byte seen;
  do
  :: atomic { state[i] != NONE && started[i] && !alive[i] -> seen = token[i] };
     atomic {
       if
       :: state[i] == RECLAIMING && ABOUT_THIS(i, seen) -> end_lease(i)
       :: else -> skip
       fi;
       seen = 0 }
  od
}

/* Once: the ledger loses everything, as after a restart without its file. */
proctype Loss() {
  atomic { !lost ->
    lost = true; settling = true;
    state[0] = NONE; token[0] = 0; started[0] = false; ended[0] = 0;   /* tombstones are lost too */
    state[1] = NONE; token[1] = 0; started[1] = false; ended[1] = 0;
#ifndef NO_EPOCH
    counter = highest;     /* the second of the new ledger's birth is above every token of the old one */
#else
    counter = 0;
#endif
  };
  /* The grace is longer than a renewal's interval: who runs has registered by then. */
  atomic { (!running[0] || state[0] != NONE) && (!running[1] || state[1] != NONE) -> settling = false }
}

init { atomic { run Holder(0, ROUNDS); run Holder(1, 1); run Network(); run Clock(); run Agent(0); run Renewer(); run Loss() } }
