/* A js-libp2p node on a leash (leash.mjs): JSON lines in, JSON lines out.
 *
 * The peer that Grove is proven against (tests/interop) and measured beside (benchmarks/js.py). It is
 * js-libp2p as published, unpatched; the only thing added to it is the choice of leaving the muxer out of
 * the Noise handshake, which js offers for tests (`skipStreamMuxerNegotiation`).
 *
 * Started with one argument, a JSON object (all keys optional):
 *   listen    ["/ip4/127.0.0.1/tcp/0", …]
 *   muxer     "inline" (default): named in the Noise handshake; "select": by multistream-select after it
 *   key       "Ed25519" (default) | "secp256k1" | "RSA" (js-libp2p knows no ECDSA peer ids)
 *   agent     agentVersion told by identify; js appends its own
 *   bare      true: no identify service and no word of connections, so that a benchmark times what it means to
 * First line out: {"event": "listening", "peer": …, "addrs": […], "versions": {…}}.
 * Verbs are the properties of `verbs` below.
 *
 * Protocols served, with the same meaning on the Grove side (tests/interop/services.py):
 *   ECHO   returns what comes, ends when the opener ends
 *   BULK   opener: u64 BE n, then any bytes, then end; server: sha256 of those bytes, then n pattern bytes, end
 *   HOLD   server reads until the stream ends and tells the leash how it ended: {"event": "held", how, …}
 *   RESET  server resets the stream at its first byte
 * The pattern: byte i is BLOCK[i mod 65521], so that lost, doubled or swapped bytes change the hash.
 */
import { createHash } from 'node:crypto'
import { quic } from '@chainsafe/libp2p-quic'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { PeerRecord, RecordEnvelope } from '@libp2p/peer-record'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { benchmarks } from './bench.mjs'
import { obey, tell, versionsOf } from './leash.mjs'
import { drain, drained, reader, together } from './streams.mjs'

const ECHO = '/grove/interop/echo/1.0.0'
const BULK = '/grove/interop/bulk/1.0.0'
const HOLD = '/grove/interop/hold/1.0.0'
const RESET = '/grove/interop/reset/1.0.0'
const PING = '/ipfs/ping/1.0.0'

const options = JSON.parse(process.argv[2] ?? '{}')

// --- the pattern ---

const BLOCK = Buffer.alloc(65521)
for (let i = 0; i < BLOCK.length; i++) {
  BLOCK[i] = ((i * 2654435761) % 4294967296) / 16777216 // the top byte; exact in doubles
}
const TWICE = Buffer.concat([BLOCK, BLOCK])
const pattern = (offset, length) => TWICE.subarray(offset % BLOCK.length, (offset % BLOCK.length) + length)

// --- the node ---

/* Noise that may leave the muxer to multistream-select, and remembers how each peer's was agreed. */
const agreed = new Map()
function encrypter (components) {
  const layer = noise()(components)
  for (const side of ['secureInbound', 'secureOutbound']) {
    const secure = layer[side].bind(layer)
    layer[side] = async (stream, given) => {
      const result = await secure(stream, { ...given, skipStreamMuxerNegotiation: options.muxer === 'select' })
      agreed.set(result.remotePeer.toString(), result.streamMuxer == null ? 'select' : 'inline')
      return result
    }
  }
  return layer
}

// By default js has one ping stream at a time, and counts one until the other side has closed it too.
const services = { ping: ping({ maxOutboundStreams: 16 }) }
if (options.bare !== true) {
  services.identify = identify()
  services.push = identifyPush()
}
const node = await createLibp2p({
  privateKey: options.key === 'RSA' ? await generateKeyPair('RSA', 2048) : await generateKeyPair(options.key ?? 'Ed25519'),
  addresses: { listen: options.listen ?? ['/ip4/127.0.0.1/tcp/0', '/ip4/127.0.0.1/udp/0/quic-v1'] },
  transports: [tcp(), quic()],
  connectionEncrypters: [encrypter],
  streamMuxers: [yamux()],
  nodeInfo: options.agent == null ? undefined : { userAgent: options.agent },
  // The defaults refuse the sixth connection per second from one host (libp2p-wire.md 7.2): all of ours are one host.
  connectionManager: { inboundConnectionThreshold: 1e6, maxIncomingPendingConnections: 1000, maxConnections: 10000, reconnectRetries: 0 },
  connectionMonitor: { enabled: false },
  services
})

const stopped = new Map() // paused streams by label, for the verb "resume"
const identified = new WeakMap() // connection → promise of what identify said on it
function identity (connection) {
  if (!identified.has(connection)) identified.set(connection, Promise.withResolvers())
  return identified.get(connection)
}
node.addEventListener('peer:identify', ({ detail }) => {
  identity(detail.connection).resolve(detail)
  tell({ event: 'identified', peer: detail.peerId.toString(), protocols: detail.protocols })
})
if (options.bare !== true) {
  node.addEventListener('connection:open', ({ detail }) => tell({ event: 'connected', ...describe(detail) }))
  node.addEventListener('connection:close', ({ detail }) => tell({ event: 'disconnected', ...describe(detail) }))
}

function describe (connection) {
  return {
    peer: connection.remotePeer.toString(),
    addr: connection.remoteAddr.toString(),
    direction: connection.direction,
    muxer: connection.multiplexer,
    encryption: connection.encryption,
    negotiated: connection.encryption === '/noise' ? agreed.get(connection.remotePeer.toString()) : null
  }
}

// --- streams ---

const plenty = { maxInboundStreams: 10000, maxOutboundStreams: 10000 }

/* Sends `total` pattern bytes, never faster than the stream takes them; tells when it is held up. */
async function send (stream, total, label) {
  let sent = 0
  while (sent < total) {
    const length = Math.min(65521, total - sent)
    stream.send(pattern(sent, length))
    sent += length
    const alarm = setTimeout(() => tell({ event: 'blocked', label, sent }), 100)
    await drain(stream)
    clearTimeout(alarm)
  }
}

/* A reader that stops at each multiple of `every` bytes until it is told to go on. The QUIC streams of js go on
 * reading while paused (into memory, up to a limit that resets the stream), so there the whole program stops instead. */
function slowly (stream, every, label) {
  let received = 0
  let next = every
  stream.maxReadBufferLength = 32 << 20 // js resets a paused stream beyond 4 MiB, but grants yamux windows of 16
  return (piece) => {
    received += piece.byteLength
    if (every === 0 || received < next) {
      return
    }
    next += every
    if (stream.constructor.name === 'QuicStream') {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
    } else if (stream.remoteWriteStatus !== 'closed') {
      stream.pause()
      stopped.set(label, stream)
      tell({ event: 'paused', label, received })
    }
  }
}

// --- protocols served ---

await node.handle(ECHO, (stream) => {
  stream.addEventListener('message', ({ data }) => stream.send(data))
  stream.addEventListener('remoteCloseWrite', () => stream.close().catch(() => {}))
}, plenty)

let pace = 0 // bytes between pauses of BULK's server; set by the verb "pace"
await node.handle(BULK, async (stream) => {
  const hash = createHash('sha256')
  const slow = slowly(stream, pace, 'server')
  let head = Buffer.alloc(0)
  let end
  await new Promise((resolve) => {
    drained(stream, (piece) => {
      if (head.length < 8) {
        head = Buffer.concat([head, piece])
        if (head.length < 8) return
        piece = head.subarray(8)
        head = head.subarray(0, 8)
        if (piece.length === 0) return
      }
      hash.update(piece)
      slow(piece)
    }).then((ending) => { end = ending; resolve() })
  })
  if (end.how !== 'end') {
    return
  }
  stream.send(hash.digest())
  await send(stream, Number(head.readBigUInt64BE()), 'server')
  await stream.close()
}, plenty)

await node.handle(HOLD, (stream, connection) => {
  let received = 0
  drained(stream, (piece) => {
    if (received === 0) tell({ event: 'holding', peer: connection.remotePeer.toString() })
    received += piece.byteLength
  }).then((end) => tell({ event: 'held', peer: connection.remotePeer.toString(), received, ...end }))
}, plenty)

await node.handle(RESET, (stream) => {
  stream.addEventListener('message', () => stream.abort(new Error('as asked')), { once: true })
}, plenty)

// --- verbs ---

function connection (peer) {
  const found = node.getConnections(peerIdFromString(peer))
  if (found.length === 0) {
    throw new Error(`not connected to ${peer}`)
  }
  return found[0]
}

const open = (peer, protocol) => connection(peer).newStream(protocol, plenty)
const since = (start) => performance.now() - start

async function echoOnce (stream, bytes) {
  const read = reader(stream)
  const sent = Buffer.from(pattern(0, bytes))
  stream.send(sent)
  const got = await read.exactly(bytes)
  if (!got.equals(sent)) {
    throw new Error(`echo of ${bytes} bytes came back changed`)
  }
  return read
}

const verbs = {
  async dial ({ addr }) {
    const start = performance.now()
    const made = await node.dial(multiaddr(addr))
    return { ms: since(start), ...describe(made) }
  },

  async hangup ({ peer }) {
    await node.hangUp(peerIdFromString(peer))
    return {}
  },

  connections: () => node.getConnections().map(describe),

  /* What the peer said when js identified it, as js does by itself on each new connection (a second question at the
   * same time would be refused: one identify stream per connection). The record is opened again here, apart from
   * js's own check. */
  async identify ({ peer }) {
    const told = await identity(connection(peer)).promise
    const stored = await node.peerStore.get(told.peerId)
    const envelope = stored.peerRecordEnvelope == null ? null : await RecordEnvelope.openAndCertify(stored.peerRecordEnvelope, PeerRecord.DOMAIN)
    const record = envelope == null ? null : PeerRecord.createFromProtobuf(envelope.payload)
    return {
      agent: told.agentVersion,
      version: told.protocolVersion,
      addrs: told.listenAddrs.map(String),
      protocols: told.protocols,
      observed: told.observedAddr?.toString() ?? null,
      record: record == null ? null : { peer: record.peerId.toString(), seq: record.seqNumber.toString(), addrs: record.multiaddrs.map(String), bytes: stored.peerRecordEnvelope.byteLength }
    }
  },

  /* What js knows of a peer without asking anew: by its own identify on connecting, and by identify/push since. */
  async known ({ peer }) {
    const stored = await node.peerStore.get(peerIdFromString(peer))
    return {
      agent: new TextDecoder().decode(stored.metadata.get('AgentVersion') ?? new Uint8Array()),
      protocols: stored.protocols,
      addrs: stored.addresses.map(({ multiaddr, isCertified }) => ({ addr: multiaddr.toString(), certified: isCertified }))
    }
  },

  /* Pings through the ping service (a stream each), or all on one stream. Answers the round trips in ms. */
  async ping ({ peer, count = 1, oneStream = false }) {
    const rtts = []
    if (!oneStream) {
      for (let i = 0; i < count; i++) rtts.push(await node.services.ping.ping(peerIdFromString(peer)))
      return { rtts }
    }
    const stream = await open(peer, PING)
    const read = reader(stream)
    for (let i = 0; i < count; i++) {
      const payload = Buffer.from(pattern(i * 32, 32))
      const start = performance.now()
      stream.send(payload)
      if (!(await read.exactly(32)).equals(payload)) throw new Error(`ping ${i} came back changed`)
      rtts.push(since(start))
    }
    await stream.close()
    await read.ended
    return { rtts }
  },

  /* Opens `count` ECHO streams, `atOnce` at a time, each carrying `bytes` there and back and then ending in order. */
  async streams ({ peer, count, atOnce, bytes = 32 }) {
    let most = 0
    let now = 0
    let done = 0
    await together(count, atOnce, async () => {
      const stream = await open(peer, ECHO)
      most = Math.max(most, ++now)
      const read = await echoOnce(stream, bytes)
        await stream.close()
      const end = await read.ended
      now--
    done++
      if (end.how !== 'end' && end.how !== 'closed') throw new Error(`stream ${stream.id} ended by ${end.how}`)
    })
    return { done, most }
  },

  /* One BULK exchange: sends `up` bytes, has `down` bytes sent back, reading slowly if `every` is given. */
  async bulk ({ peer, up = 0, down = 0, every = 0 }) {
    const stream = await open(peer, BULK)
    const start = performance.now()
    const hash = createHash('sha256')
    const slow = slowly(stream, every, 'opener')
    let answer = Buffer.alloc(0)
    let received = 0
    const end = drained(stream, (piece) => {
      if (answer.length < 32) {
        answer = Buffer.concat([answer, piece])
        if (answer.length < 32) return
        piece = answer.subarray(32)
        answer = answer.subarray(0, 32)
        if (piece.length === 0) return
      }
      received += piece.byteLength
      hash.update(piece)
      slow(piece)
    })
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(down))
    stream.send(head)
    await send(stream, up, 'opener')
    await stream.close()
    const { how } = await end
    return { ms: since(start), up: answer.toString('hex'), down: hash.digest('hex'), received, how }
  },

  pace ({ every }) { pace = every; return {} },

  resume ({ label }) { stopped.get(label).resume(); return {} },

  /* Opens a HOLD stream, sends a byte and resets it. */
  async abort ({ peer }) {
    const stream = await open(peer, HOLD)
    stream.send(Buffer.from('x'))
    await new Promise((resolve) => stream.writeBufferLength === 0 ? resolve() : stream.addEventListener('idle', resolve, { once: true }))
    stream.abort(new Error('as asked'))
    return { how: stream.status }
  },

  /* Opens a RESET stream, sends a byte and tells how the stream ended. */
  async aborted ({ peer }) {
    const stream = await open(peer, RESET)
    const end = drained(stream, () => {})
    stream.send(Buffer.from('x'))
    return await end
  },

  /* Begins to serve one more protocol, which js then pushes to its peers. */
  async handle ({ protocol }) {
    await node.handle(protocol, (stream) => { stream.close().catch(() => {}) })
    return {}
  },

  async unhandle ({ protocol }) {
    await node.unhandle(protocol)
    return {}
  },

  /* Opens a stream of a protocol that the peer need not have. */
  async open ({ peer, protocol }) {
    const stream = await open(peer, protocol)
    const chosen = stream.protocol
    await stream.close()
    return { protocol: chosen }
  },

  // --- measurements ---

  ...await benchmarks(node)
}

const versions = versionsOf('libp2p', '@libp2p/tcp', '@libp2p/noise', '@libp2p/yamux', '@chainsafe/libp2p-quic', '@libp2p/identify', '@libp2p/ping')
obey(verbs, () => node.stop())
const addrs = node.getMultiaddrs().map(String)
tell({ event: 'listening', peer: node.peerId.toString(), address: addrs[0], addrs, versions })
