/* Some js-libp2p nodes with pubsub in one program, on a leash (leash.mjs).
 *
 * What Grove's GossipSub is proven against and measured beside. @libp2p/gossipsub and @libp2p/floodsub are as
 * published, unpatched; `observe` only looks at the RPCs that go in and out.
 *
 * Started with one argument, a JSON object:
 *   nodes      how many (1)
 *   listen     ["/ip4/127.0.0.1/tcp/0"]: where each of them listens
 *   router     "gossipsub" (default) | "floodsub"
 *   signing    "strict" (default) | "none"
 *   id         "content" (default): Grove's message id, SHA-256 of the signed bytes | "libp2p": js's default
 *   gossipsub  further options of @libp2p/gossipsub, such as D, Dlo, Dhi, Dout, floodPublish, asyncValidation
 *   scored     topic whose P1 to P4 are counted
 * First line out: {"event": "listening", "peer", "addrs", "nodes": [{peer, addrs}], "versions"}.
 *
 * A message is the text `tag:number|` and zeros up to its size, so that both sides can say what they have heard.
 */
import { createHash } from 'node:crypto'
import { quic } from '@chainsafe/libp2p-quic'
import { floodsub } from '@libp2p/floodsub'
import { gossipsub } from '@libp2p/gossipsub'
import { createTopicScoreParams } from '@libp2p/gossipsub/score'
import { identify, identifyPush } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { obey, tell, versionsOf } from './leash.mjs'

const options = JSON.parse(process.argv[2] ?? '{}')
const isGossip = options.router !== 'floodsub'

// --- Grove's message id ---

function varint (value) {
  const bytes = []
  for (; value >= 0x80; value = Math.floor(value / 128)) bytes.push(value % 128 + 128)
  return Buffer.from([...bytes, value])
}
const field = (number, bytes) => Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes])

/* SHA-256 of what an author signs (or would sign): the domain, then fields 1 to 4 in ascending order. */
function contentId (message) {
  const parts = [Buffer.from('libp2p-pubsub:')]
  if (message.type === 'signed') parts.push(field(1, message.from.toMultihash().bytes))
  parts.push(field(2, message.data))
  if (message.type === 'signed') {
    const seqno = Buffer.alloc(8)
    seqno.writeBigUInt64BE(message.sequenceNumber)
    parts.push(field(3, seqno))
  }
  parts.push(field(4, Buffer.from(message.topic)))
  return createHash('sha256').update(Buffer.concat(parts)).digest()
}

// --- the nodes ---

/* P1, P2 and P4. Not P3: a mesh that has nothing to carry for five seconds would punish its members. */
const SCORE = createTopicScoreParams({ topicWeight: 1, meshMessageDeliveriesWeight: 0, meshFailurePenaltyWeight: 0 })

function pubsub () {
  const globalSignaturePolicy = options.signing === 'none' ? 'StrictNoSign' : 'StrictSign'
  if (!isGossip) return floodsub({ globalSignaturePolicy })
  return gossipsub({
    globalSignaturePolicy,
    allowPublishToZeroTopicPeers: true,
    ...(options.id === 'libp2p' ? {} : { msgIdFn: contentId }),
    scoreParams: {
      // All are on one host: from the eleventh peer on P6 takes all of them out of the mesh, soon nobody hears anybody.
      IPColocationFactorWeight: 0,
      topics: options.scored == null ? {} : { [options.scored]: SCORE }
    },
    ...options.gossipsub
  })
}

/* One node, and what it has heard and said. */
async function villager () {
  const node = await createLibp2p({
    addresses: { listen: options.listen ?? ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp(), quic()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // All are on one host, which by default may open five connections a second.
    connectionManager: { inboundConnectionThreshold: 1e6, maxIncomingPendingConnections: 1000, maxConnections: 10000, reconnectRetries: 0 },
    connectionMonitor: { enabled: false },
    services: { identify: identify(), push: identifyPush(), pubsub: pubsub() }
  })
  const one = { node, pubsub: node.services.pubsub, heard: new Map(), twice: 0, traffic: new Map(), held: new Map() }
  if (isGossip) {
    observe(one)
    one.pubsub.addEventListener('gossipsub:message', ({ detail }) => one.held.set(detail.msgId, detail.propagationSource.toString()))
  }
  one.pubsub.addEventListener('message', ({ detail }) => hear(one, Buffer.from(detail.data.buffer, detail.data.byteOffset, detail.data.byteLength)))
  return one
}

let flows = 0
let clocked = null // while something is measured: (data) => …, instead of all that

function hear (one, data) {
  if (clocked != null) return clocked(data)
  const [tag, number] = data.subarray(0, data.indexOf('|')).toString().split(':')
  let numbers = one.heard.get(tag)
  if (numbers == null) one.heard.set(tag, numbers = new Set())
  if (numbers.has(number)) one.twice++
  numbers.add(number)
  for (const wait of waits) wait()
}

/* Counts what RPCs carry, by peer and direction. Only where it is asked for: a benchmark must not pay for it. */
function observe (one) {
  if (options.observe === false) return
  const note = (peer, way, rpc) => {
    let counts = one.traffic.get(peer)
    if (counts == null) one.traffic.set(peer, counts = { in: {}, out: {} })
    const add = (kind, count = 0) => { counts[way][kind] = (counts[way][kind] ?? 0) + count }
    add('messages', rpc.messages?.length)
    for (const kind of ['ihave', 'iwant', 'idontwant', 'graft', 'prune']) add(kind, rpc.control?.[kind]?.length)
  }
  const received = one.pubsub.handleReceivedRpc.bind(one.pubsub)
  one.pubsub.handleReceivedRpc = (from, rpc) => { note(from.toString(), 'in', rpc); return received(from, rpc) }
  const send = one.pubsub.sendRpc.bind(one.pubsub)
  one.pubsub.sendRpc = (peer, rpc) => {
    const sent = send(peer, rpc) // which adds gossip that waits for the peer
    note(peer, 'out', rpc)
    return sent
  }
}

const village = []
for (let n = 0; n < (options.nodes ?? 1); n++) village.push(await villager())

const waits = new Set()
/* Resolves when a condition holds; looked at again at each message and ten times a second. */
function until (holds) {
  return new Promise((resolve) => {
    const look = () => {
      if (!holds()) return
      waits.delete(look)
      clearInterval(timer)
      resolve()
    }
    const timer = setInterval(look, 100)
    waits.add(look)
    look()
  })
}

function message (tag, number, size) {
  const data = Buffer.alloc(size)
  data.write(`${tag}:${number}|`)
  return data
}

const count = (one, tag) => one.heard.get(tag)?.size ?? 0

// --- verbs; `node` is an index into the village ---

const verbs = {
  async dial ({ node = 0, addr }) {
    await village[node].node.dial(multiaddr(addr))
    return {}
  },

  /* All to all, each pair once. */
  async connect () {
    for (let a = 0; a < village.length; a++) {
      for (let b = 0; b < a; b++) await village[a].node.dial(village[b].node.getMultiaddrs()[0])
    }
    return {}
  },

  subscribe ({ topic }) {
    for (const { pubsub } of village) pubsub.subscribe(topic)
    return {}
  },

  unsubscribe ({ topic }) {
    for (const { pubsub } of village) pubsub.unsubscribe(topic)
    return {}
  },

  async publish ({ node = 0, topic, tag, first = 0, count = 1, size }) {
    for (let n = first; n < first + count; n++) await village[node].pubsub.publish(topic, message(tag, n, size))
    return {}
  },

  /* Waits until each node but `except` has heard so many messages of a tag. */
  async hear ({ tag, count: wanted, except = -1 }) {
    await until(() => village.every((one, index) => index === except || count(one, tag) >= wanted))
    return {}
  },

  heard: ({ tag }) => ({ counts: village.map((one) => count(one, tag)), twice: village.map((one) => one.twice) }),

  /* Waits until each node sees so many subscribers, and has so many peers in its mesh. */
  async settle ({ topic, subscribers = 0, mesh = 0 }) {
    await until(() => village.every(({ pubsub }) =>
      pubsub.getSubscribers(topic).length >= subscribers && (mesh === 0 || pubsub.getMeshPeers(topic).length >= mesh)))
    return {}
  },

  /* Waits until no node has the peer in its mesh, for it has answered PRUNE. */
  async pruned ({ topic, peer }) {
    await until(() => village.every((one) => !one.pubsub.getMeshPeers(topic).includes(peer)))
    await until(() => village.some(({ traffic }) => (traffic.get(peer)?.in.prune ?? 0) > 0))
    return {}
  },

  mesh: ({ node = 0, topic }) => village[node].pubsub.getMeshPeers(topic),

  /* P4 by topic and P7 of every peer, as each node counts them, and the score they lead to. */
  scores () {
    return village.map(({ pubsub }) => Object.entries(pubsub.dumpPeerScoreStats()).map(([peer, stats]) => ({
      peer,
      score: pubsub.score.score(peer),
      misbehaviour: stats.behaviourPenalty,
      invalid: Object.values(stats.topics).reduce((sum, topic) => sum + topic.invalidMessageDeliveries, 0)
    })))
  },

  /* What went between a node and a peer: {in, out} of {messages, ihave, iwant, idontwant, graft, prune}. */
  traffic: ({ node = 0, peer }) => village[node].traffic.get(peer) ?? { in: {}, out: {} },

  /* How many messages a peer does not want, as a node has been told. */
  unwanted: ({ node = 0, peer }) => village[node].pubsub.idontwants.get(peer)?.size ?? 0,

  /* With asyncValidation: accepts what waits, which a node then passes on. */
  release ({ node = 0 }) {
    const one = village[node]
    for (const [id, from] of one.held) one.pubsub.reportMessageValidationResult(id, from, 'accept')
    one.held.clear()
    return {}
  },

  /* Publishes `count` messages from all nodes in turn, with so many at a time not yet heard by all others, or, if
   * `every` ms is given, at that pace. Gives up after 10 s of silence. Answers deliveries lost, ms and processor µs that it took, and the ms until each hearing. */
  async flow ({ topic, size, count, atOnce, every = 0 }) {
    const others = village.length - 1
    const [left, sent, delays] = [new Array(count).fill(others), new Array(count), []]
    let [next, open, last] = [0, 0, performance.now()]
    flows++
    const { promise, resolve } = Promise.withResolvers()
    const publish = () => {
      const data = Buffer.alloc(size)
      data.writeUInt32BE(next)
      data.writeUInt32BE(flows, 4) // without signatures equal data is one message
      sent[next] = performance.now()
      open++
      village[next % village.length].pubsub.publish(topic, data)
      next++
    }
    clocked = (data) => {
      if (data.readUInt32BE(4) !== flows) return // late, of a flow that was given up
      const number = data.readUInt32BE()
      last = performance.now()
      if (every > 0) delays.push(performance.now() - sent[number])
      if (--left[number] > 0) return
      open--
      if (next === count && open === 0) resolve()
      while (every === 0 && open < atOnce && next < count) publish()
    }
    const [start, cpu] = [performance.now(), process.cpuUsage()]
    if (every > 0) {
      for (; next < count;) { publish(); await new Promise((resolve) => setTimeout(resolve, start + next * every - performance.now())) }
    } else {
      while (open < atOnce && next < count) publish()
    }
    const timer = setInterval(() => { if (performance.now() - last > 10000) resolve() }, 500)
    await promise
    clearInterval(timer)
    const used = process.cpuUsage(cpu)
    clocked = null
    return { ms: last - start, cpu: used.user + used.system, delays, lost: left.reduce((sum, one) => sum + one, 0) }
  },

  /* Resets the stream on which a peer writes to a node. */
  async reset ({ node = 0, peer }) {
    const inbound = village[node].pubsub.streamsInbound.get(peer)
    inbound.rawStream.abort(new Error('as asked'))
    return {}
  }
}

const nodes = village.map(({ node }) => ({ peer: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) }))
obey(verbs, () => Promise.all(village.map(({ node }) => node.stop())))
tell({ event: 'listening', ...nodes[0], nodes, versions: versionsOf('libp2p', '@libp2p/gossipsub', '@libp2p/floodsub') })
