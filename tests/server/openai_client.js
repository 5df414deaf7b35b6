// Uses npm's openai against the server whose URL is given, and prints what it found as one line of JSON.
const { OpenAI } = require("openai");

const messages = [{ role: "user", content: "Who are you?" }];
const common = { model: "tiny", messages, max_tokens: 8, seed: 4 };

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
  const found = { models: [], errors: [] };
  for await (const model of await client.models.list()) found.models.push(model.id);

  const { data, request_id } = await client.chat.completions.create(common).withResponse();
  found.whole = data.choices[0].message.content;
  found.finish_reason = data.choices[0].finish_reason;
  found.request_id = request_id;

  found.streamed = "";
  const stream = await client.chat.completions.create({
    ...common, stream: true, stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    found.streamed += chunk.choices[0]?.delta?.content ?? "";
    found.usage = chunk.usage ?? found.usage;
  }
  const runner = client.chat.completions.stream(common);
  found.accumulated = (await runner.finalChatCompletion()).choices[0].message.content;

  const several = await client.chat.completions.create({ ...common, n: 2, logprobs: true, top_logprobs: 1 });
  found.n = several.choices.length;
  found.tokens = several.choices[0].logprobs.content.map((token) => token.token).join("");

  const text = { model: "tiny", prompt: "Who", max_tokens: 4, echo: true, seed: 1 };
  found.completion = (await client.completions.create(text)).choices[0].text;
  found.echoed = "";
  for await (const chunk of await client.completions.create({ ...text, stream: true })) {
    found.echoed += chunk.choices[0].text;
  }

  const stopped = await client.chat.completions.create({ ...common, max_tokens: 600, stream: true });
  for await (const _ of stopped) stopped.controller.abort();

  const wrong = [{ model: "gpt-4" }, { tools: [{ type: "function", function: { name: "f" } }] }, { top_p: 2 }];
  for (const change of wrong) {
    try {
      await client.chat.completions.create({ ...common, ...change });
    } catch (error) {
      found.errors.push([error.status, error.code ?? null]);
    }
  }
  console.log(JSON.stringify(found));
}

main();
