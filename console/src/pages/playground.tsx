/** A request, sent by the server to one of the endpoint's workers, and its answer as it streams. */
import { useEffect, useRef, useState } from "preact/hooks";
import { Failed, lines, type Tried } from "../api";
import { Area, SelectField, TextField } from "../fields";
import { span } from "../format";
import { Problem } from "../parts";
import { Said } from "../text";

const WAYS = [
  ["chat", "Chat, /v1/chat/completions"],
  ["text", "Text, /v1/completions"],
  ["generate", "Text, /generate_stream"],
  ["own", "Another path, with your own JSON"],
] as const;
type Way = (typeof WAYS)[number][0];
type Sent = { text: string; pieces: number; waitsFor: string; readyInS: number; askedAt: number; waitedS: number; firstS: number; endS: number; failed: string; done: boolean };
const MOST = 200_000; // characters that are shown
const PAINT_MS = 60;

export function Playground({ name, path, model }: { name: string; path: string; model: string }) {
  const [way, setWay] = useState<Way>("chat");
  const [prompt, setPrompt] = useState("In one sentence: what was a post house?");
  const [tokens, setTokens] = useState("256");
  const [own, setOwn] = useState({ path: "/", json: "{}" });
  const [sent, setSent] = useState<Sent | null>(null);
  const [error, setError] = useState<Failed | null>(null);
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);

  const send = async () => {
    if (stop.current) return;
    setError(null);
    let body: unknown;
    try {
      body = request(way, model, prompt, Math.max(1, Math.round(Number(tokens)) || 256), own);
    } catch {
      return setError(new Failed(0, "The body is not a JSON object."));
    }
    const abort = (stop.current = new AbortController());
    let now: Sent = { text: "", pieces: 0, waitsFor: "", readyInS: 0, askedAt: Date.now(), waitedS: 0, firstS: 0, endS: 0, failed: "", done: false };
    setSent(now);
    let painting = 0;
    const paint = () => void (painting ||= window.setTimeout(() => { painting = 0; setSent(now); }, PAINT_MS));
    try {
      for await (const told of lines<Tried>(`${path}/try`, body, abort.signal)) {
        now = taken(now, told);
        paint();
      }
    } catch (problem) {
      if (!abort.signal.aborted) problem instanceof Failed ? setError(problem) : (now = { ...now, failed: "The connection to the server broke off." });
    }
    clearTimeout(painting);
    now = { ...now, done: true };
    setSent(error ? null : now);
    stop.current = null;
  };

  const runs = sent !== null && !sent.done;
  return (
    <div class="play">
      <div class="grid2">
        <SelectField label="What is asked" value={way} set={(value) => setWay(value as Way)} options={WAYS} />
        {way === "own" ? (
          <TextField label="Path" value={own.path} set={(value) => setOwn({ ...own, path: value })} />
        ) : (
          <TextField label="Longest answer" unit="tokens" numeric value={tokens} set={setTokens} />
        )}
      </div>
      {way === "own" ? (
        <Area label="Body" mono rows={5} value={own.json} set={(value) => setOwn({ ...own, json: value })} onEnter={send} />
      ) : (
        <Area label="Prompt" rows={3} value={prompt} set={setPrompt} onEnter={send} />
      )}
      <div class="acts">
        {runs ? (
          <button class="button" type="button" onClick={() => stop.current?.abort()}>Stop</button>
        ) : (
          <button class="button primary" type="button" onClick={send}>Send</button>
        )}
        <span class="sub keyhint"><kbd>Ctrl</kbd> <kbd>Enter</kbd> sends</span>
      </div>
      {error && <Problem error={error} />}
      {sent && <Answer sent={sent} name={name} />}
    </div>
  );
}

function Answer({ sent, name }: { sent: Sent; name: string }) {
  const [, tick] = useState(0);
  const waits = !sent.done && !sent.firstS;
  useEffect(() => {
    if (!waits) return;
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [waits]);
  const took = sent.endS - sent.firstS;
  return (
    <>
      <div class={`answer${sent.done ? "" : " runs"}`} role="log" aria-label={`Answer of ${name}`} tabIndex={0}>
        {sent.text ? <Said text={sent.text} most={MOST} /> : waits && (
          <p class="muted">
            {sent.waitsFor ? <>Waits for a worker: <Said text={sent.waitsFor} most={300} /></> : "Sent."}
            {sent.readyInS > 0 && ` One is expected in about ${span(sent.readyInS)}.`}
          </p>
        )}
        {sent.failed && <p class="bad"><Said text={sent.failed} most={2000} /></p>}
        {sent.done && !sent.text && !sent.failed && <p class="muted">{sent.endS ? "The answer is empty." : "Stopped."}</p>}
      </div>
      <p class="legend" role="status">
        <span>{waits ? "Waiting" : "First piece"} <b>{span(waits ? (Date.now() - sent.askedAt) / 1000 : sent.firstS)}</b></span>
        {sent.waitedS > 0 && !waits && <span>of which for a worker, about <b>{span(sent.waitedS)}</b></span>}
        {sent.pieces > 0 && <span>Pieces <b>{sent.pieces.toLocaleString("en-US")}</b></span>}
        {sent.endS > 0 && took > 0.05 && <span>Speed <b>{Math.round(sent.pieces / took)}</b> pieces/s</span>}
        {sent.endS > 0 && <span>In all <b>{span(sent.endS)}</b></span>}
      </p>
    </>
  );
}

function taken(before: Sent, told: Tried): Sent {
  switch (told.kind) {
    case "waits": return { ...before, waitsFor: told.text, readyInS: told.ready_in_s, waitedS: told.at_s };
    case "begins": return { ...before, firstS: told.at_s };
    case "piece": return { ...before, text: (before.text + textOf(told.text)).slice(0, MOST + 1), pieces: before.pieces + 1 };
    case "fails": return { ...before, failed: told.text, endS: told.at_s };
    default: return { ...before, endS: told.at_s };
  }
}

type Known = { choices?: { delta?: { content?: string; reasoning_content?: string }; text?: string; message?: { content?: string } }[]; token?: { text?: string }; generated_text?: string };

/** The text in a piece of an answer, of the shapes that engines use; else the piece as it came. */
function textOf(piece: string): string {
  let found: Known;
  try {
    found = JSON.parse(piece) as Known;
  } catch {
    return piece;
  }
  if (typeof found !== "object" || found === null) return piece;
  const choice = found.choices?.[0];
  if (found.choices) return String(choice?.delta?.content ?? choice?.delta?.reasoning_content ?? choice?.text ?? choice?.message?.content ?? "");
  if (found.token) return String(found.token.text ?? "");
  return typeof found.generated_text === "string" ? found.generated_text : JSON.stringify(found, null, 1) + "\n";
}

function request(way: Way, model: string, prompt: string, tokens: number, own: { path: string; json: string }) {
  switch (way) {
    case "chat": return { path: "/v1/chat/completions", cost: tokens, payload: { model, messages: [{ role: "user", content: prompt }], max_tokens: tokens, stream: true } };
    case "text": return { path: "/v1/completions", cost: tokens, payload: { model, prompt, max_tokens: tokens, stream: true } };
    case "generate": return { path: "/generate_stream", cost: tokens, payload: { inputs: prompt, parameters: { max_new_tokens: tokens } } };
    default: {
      const payload: unknown = JSON.parse(own.json);
      if (typeof payload !== "object" || payload === null || Array.isArray(payload)) throw new Error();
      return { path: own.path, payload };
    }
  }
}
