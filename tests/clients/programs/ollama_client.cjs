// Does what users of Ollama's JavaScript client do, and prints what they get as JSON.
const { Ollama } = require('ollama')

const model = 'dure-demo'
const messages = [{ role: 'user', content: 'Tell me a story.' }]
const options = { temperature: 0, num_predict: 24, num_ctx: 2048, num_thread: 4 }
const person = {
  type: 'object',
  properties: { name: { type: 'string' } },
  required: ['name'],
}
const weather = {
  type: 'function',
  function: {
    name: 'weather',
    description: 'The weather of a place.',
    parameters: {
      type: 'object',
      properties: { place: { type: 'string', description: 'Where.' } },
      required: ['place'],
    },
  },
}

async function main(host) {
  const ollama = new Ollama({ host })
  const whole = await ollama.chat({ model, messages, options, keep_alive: '5m' })
  let streamed = ''
  for await (const part of await ollama.chat({ model, messages, options, stream: true })) {
    streamed += part.message.content
  }
  const call = await ollama.chat({
    model,
    messages: [{ role: 'user', content: 'What is the weather in Solbat?' }],
    tools: [weather],
    options: { temperature: 0, num_predict: 200 },
  })
  const answered = await ollama.chat({
    model,
    messages: [...messages, call.message, { role: 'tool', content: 'Rain.', tool_name: 'weather' }],
    tools: [weather],
    options,
  })
  const formed = await ollama.chat({
    model,
    messages,
    format: person,
    options: { temperature: 0, num_predict: 400 },
  })
  const thought = await ollama.chat({ model, messages, think: true, options })
  const unloaded = await ollama.generate({ model, prompt: '', keep_alive: 0 })
  const embedded = await ollama.embed({ model, input: ['a bell', 'the river'] })
  const listed = await ollama.list()
  const running = await ollama.ps()
  const shown = await ollama.show({ model })
  const { version } = await ollama.version()
  return {
    whole: whole.message.content,
    streamed,
    call: call.message.tool_calls[0].function,
    answered: answered.message.content,
    formed: JSON.parse(formed.message.content),
    thought: thought.message.thinking,
    unloaded: unloaded.done,
    embedded: embedded.embeddings.length,
    listed: listed.models.map((one) => one.name),
    running: running.models.map((one) => one.name),
    capabilities: shown.capabilities,
    version,
  }
}

main(process.argv[2]).then((found) => console.log(JSON.stringify(found)))
