// npm's redis-semaphore, as its README has it: new Semaphore(redis, key, 1) over ioredis, all defaults.
// Serves the same lines as benchmarks/peer/child.py: node semaphore.mjs NODE_MODULES URL
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const [modules, url] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const Redis = require('ioredis')
const { Semaphore } = require('redis-semaphore')

const redis = new Redis(url)
redis.on('error', () => {}) // a connection that was cut: ioredis connects again by itself
const bare = await redis.script('LOAD', 'return 1')
const seconds = () => Number(process.hrtime.bigint()) / 1e9
const sleep = (duration) => new Promise((resolve) => setTimeout(resolve, duration * 1000))
let kept = null

async function take(name, wait) {
  // One attempt, or as many as fit into the wait; every 10 ms by default.
  const limits = wait > 0 ? { acquireTimeout: wait * 1000 } : { acquireAttemptsLimit: 1 }
  const semaphore = new Semaphore(redis, name, 1, limits)
  return (await semaphore.tryAcquire()) ? semaphore : null
}

async function timed(count, call) {
  const spans = []
  for (let turn = 0; turn < count; turn++) {
    const begun = seconds()
    await call()
    spans.push((seconds() - begun) * 1e6)
  }
  return spans
}

const served = {
  bares: (count) => timed(count, () => redis.evalsha(bare, 0)),
  pairs: (count) =>
    timed(count, async () => {
      const held = await take('alone', 0)
      if (held === null) throw new Error('what nobody else wants was not lent')
      await held.release()
    }),
  async acquire(name, wait) {
    const asked = seconds()
    kept = await take(name, wait)
    return { held: kept !== null, asked, at: seconds() }
  },
  async release() {
    const at = seconds()
    await kept.release()
    return at
  },
  async cycle(names, wait, hold) {
    const spans = []
    let errors = 0
    for (const name of names) {
      let held = null
      try {
        held = await take(name, wait)
      } catch {
        errors++
      }
      if (held === null) continue
      const begun = seconds()
      await sleep(hold)
      spans.push([name, begun, seconds()])
      try {
        await held.release()
      } catch {
        errors++
      }
    }
    return { spans, errors }
  },
  async free(names) {
    const found = []
    for (const name of names) {
      const held = await take(name, 0)
      if (held === null) continue
      found.push(name)
      await held.release()
    }
    return found
  },
}

const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`)
say({ result: process.pid })
for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...given] = JSON.parse(line)
  try {
    say({ result: await served[method](...given) })
  } catch (error) {
    say({ error: String(error) })
  }
}
process.exit(0)
