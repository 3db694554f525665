/* What js-libp2p's streams leave to their user: waiting for the end, for room, and for an exact number of bytes. */

/* A message's pieces, each a Uint8Array. */
export const parts = (data) => data instanceof Uint8Array ? [data] : [...data]

/* Calls `each` with every piece that comes; resolves to how the stream ended: "end", "closed", "reset" or "aborted".
 * The event 'end' may be over before a handler is called, with bytes still to be read (those that came along with the
 * negotiation), so after each piece we look as well. */
export function drained (stream, each) {
  return new Promise((resolve) => {
    const end = () => resolve({ how: ['reset', 'aborted'].includes(stream.status) ? stream.status : 'end' })
    const look = () => { if (stream.readableEnded && stream.readBufferLength === 0) end() }
    stream.addEventListener('message', ({ data }) => { parts(data).forEach(each); look() })
    stream.addEventListener('end', end, { once: true })
    stream.addEventListener('close', ({ error }) => { // a paused stream may close before it is read to its end
      if (error != null || stream.readBufferLength === 0) resolve({ how: stream.status, error: error?.name, message: error?.message })
    }, { once: true })
    look()
  })
}

/* Waits until the stream takes more. Not `stream.onDrain()`: its promise is made once and stays resolved (3.3.11),
 * so it holds back only the first time. */
export async function drain (stream) {
  while (stream.writableNeedsDrain) {
    await new Promise((resolve, reject) => {
      const done = (event) => {
        stream.removeEventListener('drain', done)
        stream.removeEventListener('close', done)
        event.type === 'drain' ? resolve() : reject(event.error ?? new Error('stream closed'))
      }
      stream.addEventListener('drain', done)
      stream.addEventListener('close', done)
    })
  }
}

/* Exact reads for short conversations, one at a time. */
export function reader (stream) {
  let have = Buffer.alloc(0)
  let wanted = null
  let over = null
  const ended = drained(stream, (piece) => { have = Buffer.concat([have, piece]); answer() })
  ended.then((end) => { over = end; answer() })

  function answer () {
    if (wanted == null || (have.length < wanted.count && over == null)) {
      return
    }
    const { count, resolve, reject } = wanted
    wanted = null
    if (have.length < count) {
      reject(new Error(`stream over (${over.how}) after ${have.length} of ${count} bytes`))
    } else {
      resolve(have.subarray(0, count))
      have = have.subarray(count)
    }
  }

  return {
    ended,
    exactly: (count) => new Promise((resolve, reject) => { wanted = { count, resolve, reject }; answer() })
  }
}

/* Runs `work` for 0 … count-1, at most `atOnce` at a time. */
export async function together (count, atOnce, work) {
  let next = 0
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, async () => {
    while (next < count) await work(next++)
  }))
}
