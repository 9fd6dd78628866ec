/** How an endpoint is called. */
import { useState } from "preact/hooks";
import type { Endpoint } from "../api";
import { CopyButton } from "../fields";
import { useLive } from "../live";
import { Card, Choice } from "../parts";
import { ask, asked } from "../route";

const KINDS = [["", "curl"], ["openai", "openai"], ["client", "Our client"], ["vastai", "vastai"]] as const;

export function UseTab({ settings }: { settings: Endpoint }) {
  const { status } = useLive();
  const [shown, setShown] = useState(false);
  const kind = KINDS.some(([key]) => key === asked("with")) ? asked("with") : "";
  const key = shown ? settings.api_key : "$POSTHOUSE_API_KEY";
  const name = JSON.stringify(settings.endpoint_name);
  const gateway = status?.gateway ?? "";
  const text = SNIPPETS[kind]!({ name, plain: settings.endpoint_name, key, server: location.origin, gateway: gateway || "http://GATEWAY:8081/v1" });
  const overGateway = kind === "" || kind === "openai";
  return (
    <div class="columns">
      <Card title="How to call it" right={<Choice label="With" value={kind as ""} options={KINDS as readonly (readonly ["", string])[]} choose={(value) => ask("with", value)} />}>
        <div class="body stack">
          <p class="muted">{WORDS[kind]}</p>
          <div class="snippet">
            <pre class="code" tabIndex={0} aria-label="Example">{text}</pre>
            <CopyButton text={text} />
          </div>
          {overGateway && !gateway && <p class="note warn pale"><span>This server keeps no gateway. Start it with <code>posthouse serve --gateway</code>, or run <code>posthouse gateway</code> beside it, and put its address in place of GATEWAY.</span></p>}
        </div>
      </Card>
      <Card title="Its key">
        <div class="body stack">
          <p class="muted">This key may send requests to this endpoint and nothing else. Give it to programs; keep account keys for people.</p>
          <code class="secret">{shown ? settings.api_key : "phe_…"}</code>
          <div class="acts">
            <button class="button small" type="button" aria-pressed={shown} onClick={() => setShown(!shown)}>{shown ? "Hide" : "Show"}</button>
            <CopyButton text={settings.api_key} />
          </div>
          <p class="help">To change it: <code>posthouse endpoint rotate-key</code>. The one before is refused from then on.</p>
        </div>
      </Card>
    </div>
  );
}

type At = { name: string; plain: string; key: string; server: string; gateway: string };

const WORDS: Record<string, string> = {
  "": "By the gateway, which speaks OpenAI's API. The endpoint's name is the model.",
  openai: "OpenAI's own client, by the gateway. The endpoint's name is the model.",
  client: "Straight to a worker: the server only says which. Waits, retries and streams are taken care of.",
  vastai: "The unmodified client of the protocol, pointed at this server.",
};

const bash = (text: string) => `'${text.replace(/'/g, `'\\''`)}'`;
const python = (key: string) => (key.startsWith("$") ? 'os.environ["POSTHOUSE_API_KEY"]' : `"${key}"`);
const imports = (key: string) => (key.startsWith("$") ? "import os\n\n" : "");

const SNIPPETS: Record<string, (at: At) => string> = {
  "": ({ plain, key, gateway }) => `curl ${gateway}/chat/completions \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d ${bash(JSON.stringify({ model: plain, messages: [{ role: "user", content: "Hello" }], stream: true }))}`,
  openai: ({ name, key, gateway }) => `${imports(key)}from openai import OpenAI

client = OpenAI(base_url="${gateway}", api_key=${python(key)})
answer = client.chat.completions.create(
    model=${name},
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)`,
  client: ({ name, key, server }) => `${imports(key)}from posthouse.client import Client

with Client("${server}", ${python(key)}) as client:
    answer = client.request(
        ${name},
        "/v1/chat/completions",
        {"model": ${name}, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 256},
        cost=256,
    )
    print(answer.json())`,
  vastai: ({ name, key, server }) => `import asyncio
${key.startsWith("$") ? "import os\n" : ""}
from vastai import Serverless

class Here(Serverless):
    SSL_CERT_URL = "${server}/static/jvastai_root.cer"

async def main():
    here = {"autoscaler_url": "${server}", "webserver_url": "${server}"}
    async with Here(api_key=${python(key)}, **here) as client:
        endpoint = await client.get_endpoint(name=${name})
        payload = {"model": ${name}, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 256}
        print(await endpoint.request("/v1/chat/completions", payload, cost=256))

asyncio.run(main())`,
};
