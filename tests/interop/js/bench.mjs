/* js-libp2p as a rival in benchmarks/: the protocols that are served, and the measures that its dialler takes.
 *
 * The protocols are those of benchmarks/libp2p_rival.py, so that Grove can also be measured against js:
 *   echo      returns what comes
 *   drain     u64 BE n, then n bytes; answered by one byte when all are there
 *   fountain  u64 BE n; answered by n bytes
 * The measures do what benchmarks/rounds.py does, inside this program: a pipe in between would be measured too.
 */
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { drain, parts, reader, together } from './streams.mjs'

const protocol = (kind) => `/grove-bench/${kind}/1.0.0`
const plenty = { maxInboundStreams: 10000, maxOutboundStreams: 10000 }
const block = new Uint8Array(1 << 20) // js is at its best with large writes: twice as fast as with 64 KiB

function count (n) {
  const head = Buffer.alloc(8)
  head.writeBigUInt64BE(BigInt(n))
  return head
}

async function pour (stream, bytes) {
  for (let left = bytes; left > 0; left -= block.length) {
    stream.send(block.subarray(0, Math.min(left, block.length)))
    if (stream.writableNeedsDrain) await drain(stream)
  }
}

async function serve (node) {
  await node.handle(protocol('echo'), (stream) => {
    stream.addEventListener('message', ({ data }) => stream.send(data))
    stream.addEventListener('remoteCloseWrite', () => stream.close().catch(() => {}))
  }, plenty)

  await node.handle(protocol('drain'), (stream) => {
    let head = Buffer.alloc(0)
    let left = 0
    stream.addEventListener('message', ({ data }) => parts(data).forEach((piece) => {
      let length = piece.byteLength
      if (head.length < 8) {
        head = Buffer.concat([head, piece])
        if (head.length < 8) return
        left = Number(head.readBigUInt64BE())
        length = head.length - 8
      }
      left -= length
      if (left === 0) stream.send(new Uint8Array(1))
    }))
    stream.addEventListener('remoteCloseWrite', () => stream.close().catch(() => {}))
  }, plenty)

  await node.handle(protocol('fountain'), async (stream) => {
    const wanted = await reader(stream).exactly(8)
    await pour(stream, Number(wanted.readBigUInt64BE()))
    await stream.close()
  }, plenty)
}

/* The verbs, once the protocols are served. Times in ms. */
export async function benchmarks (node) {
  await serve(node)
  const since = (start) => performance.now() - start

  async function touch (connection) {
    const stream = await connection.newStream(protocol('echo'), plenty)
    const read = reader(stream)
    stream.send(new Uint8Array(1))
    await read.exactly(1)
    stream.close().catch(() => {})
  }

  return {
    /* Processor time so far in s, of this process. */
    usage () {
      const { user, system } = process.cpuUsage()
      return { cpu: (user + system) / 1e6, rss: process.memoryUsage.rss() }
    },

    /* `times` times one after the other: dial, one stream, one byte there and back; then hang up, not counted. */
    async setups ({ addr, times }) {
      const ms = []
      for (let i = 0; i < times; i++) {
        const start = performance.now()
        const made = await node.dial(multiaddr(addr), { force: true })
        await touch(made)
        ms.push(since(start))
        await made.close()
      }
      return { ms }
    },

    /* One stream at full speed: `bytes` up, or down. */
    async flow ({ peer, bytes, up }) {
      const stream = await node.getConnections(peerIdFromString(peer))[0].newStream(protocol(up ? 'drain' : 'fountain'), plenty)
      let got = 0
      const all = new Promise((resolve, reject) => {
        stream.addEventListener('message', ({ data }) => { if ((got += data.byteLength) >= (up ? 1 : bytes)) resolve() })
        stream.addEventListener('close', () => reject(new Error(`stream over after ${got} bytes`)), { once: true })
      })
      const start = performance.now()
      stream.send(count(bytes))
      if (up) await pour(stream, bytes)
      await all
      const ms = since(start)
      stream.close().catch(() => {})
      return { ms }
    },

    /* 32 bytes there and back, `each` times in turn on each of `streams` streams of one connection. */
    async requests ({ peer, streams, each }) {
      const connection = node.getConnections(peerIdFromString(peer))[0]
      const opened = []
      await together(streams, 8, async () => opened.push(await connection.newStream(protocol('echo'), plenty)))
      const request = new Uint8Array(32)
      const start = performance.now()
      await Promise.all(opened.map(async (stream) => {
        const read = reader(stream)
        for (let i = 0; i < each; i++) {
          stream.send(request)
          await read.exactly(32)
        }
      }))
      const ms = since(start)
      for (const stream of opened) stream.close().catch(() => {})
      return { ms }
    },

    /* `connections` more connections, each used once and kept. */
    async hoard ({ addr, connections }) {
      for (let i = 0; i < connections; i++) await touch(await node.dial(multiaddr(addr), { force: true }))
      return { open: node.getConnections().length }
    }
  }
}
