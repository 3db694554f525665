/* The leash of a js program: JSON lines in, JSON lines out.
 *
 * A line in is {"id": n, "do": verb, …}; its answer is {"id": n, "ok": …} or {"id": n, "error": {name, message}}.
 * Lines without an id are events. End of input, "stop" and SIGTERM all end the program.
 */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

export const tell = (line) => process.stdout.write(JSON.stringify(line) + '\n')

/* Versions of the runtime and of what the package file names. */
export function versionsOf (...names) {
  const wanted = JSON.parse(readFileSync(new URL('package.json', import.meta.url))).dependencies
  return { node: process.versions.node, ...Object.fromEntries(names.map((name) => [name, wanted[name]])) }
}

/* Obeys commands until told to stop. verbs: name → async (given) → answer. end: gives back what is held. */
export function obey (verbs, end) {
  async function stop () {
    setTimeout(() => process.exit(0), 2000).unref()
    await end()
    process.exit(0)
  }
  const all = { ...verbs, stop: () => { setImmediate(stop); return {} } }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  process.on('unhandledRejection', (error) => tell({ event: 'stray', error: String(error) }))
  const lines = createInterface({ input: process.stdin })
  lines.on('close', stop)
  lines.on('line', async (line) => {
    const { id, do: verb, ...given } = JSON.parse(line)
    try {
      if (!Object.hasOwn(all, verb)) throw new Error(`no verb ${verb}; there are ${Object.keys(all).join(', ')}`)
      tell({ id, ok: await all[verb](given) })
    } catch (error) {
      const first = error.errors?.[0] ?? error // dials fail with an AggregateError of one per address
      tell({ id, error: { name: first.name, message: first.message } })
    }
  })
}
