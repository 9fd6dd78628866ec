/** What a worker printed: live, searched, and only the rows that are in view are drawn. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, type Failed, type Worker } from "./api";
import { Card, Choice, Empty, Icon, Loading, Problem } from "./parts";
import { Said } from "./text";

const ROW = 18; // pixels
const HEIGHT = 360;
const TAILS = [["1000", "1,000 lines"], ["10000", "10,000"], ["100000", "100,000"]] as const; // that are asked for, from the end
const MOST = 100_000;
const FRESH = 1000; // of these that it printed last is asked every two seconds
const EVERY_MS = 2000;

export function Log({ worker }: { worker: Worker }) {
  const [follows, setFollows] = useState(true);
  const [find, setFind] = useState("");
  const [top, setTop] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const [tail, setTail] = useState<(typeof TAILS)[number][0]>("1000");
  const { lines, error, again, value } = useLines(worker.id, tail, !worker.gone_at && follows);
  const word = find.toLowerCase();
  const shown = useMemo(() => (word ? lines.filter((line) => line.toLowerCase().includes(word)) : lines), [lines, word]);
  const first = Math.max(0, Math.floor(top / ROW) - 10);
  const rows = shown.slice(first, first + Math.ceil(HEIGHT / ROW) + 20);
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown, follows]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    setTop(scrollTop);
    const atEnd = scrollHeight - scrollTop - clientHeight < ROW;
    if (atEnd !== follows) setFollows(atEnd);
  };
  const state = worker.gone_at ? "" : follows ? "following" : "paused";
  const controls = (
    <>
      <input type="search" class="find" placeholder="Find in the log" aria-label="Find in the log" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
      {word && <span class="sub">{shown.length.toLocaleString("en-US")} of {lines.length.toLocaleString("en-US")} lines</span>}
      <Choice label="Lines" value={tail} options={TAILS} choose={setTail} />
      {!worker.gone_at && <button class="button icon" type="button" aria-label={follows ? "Pause" : "Follow"} title={follows ? "Pause" : "Follow"} onClick={() => setFollows(!follows)}><Icon name={follows ? "pause" : "play"} /></button>}
      <button class="button icon" type="button" aria-label="Download the log" title="Download" disabled={!lines.length} onClick={() => download(worker.id, lines)}><Icon name="down" /></button>
    </>
  );
  return (
    <Card title="Log" sub={lines.length ? state : undefined} right={controls} class="logcard">
      {error && !value && <Problem error={error} again={again} />}
      {!value && !error && <Loading lines={5} />}
      {value && !lines.length && <Empty title="It has printed nothing yet"><p>What it prints is shown as its provider hands it over.</p></Empty>}
      {lines.length > 0 && (
        <div class="log" ref={box} onScroll={scrolled} tabIndex={0} role="log" aria-live="off" aria-label={`Log of worker ${worker.id}`}>
          <div class="space" ref={(el) => void (el && (el.style.height = `${shown.length * ROW}px`))}>
            <ol ref={(el) => void (el && (el.style.transform = `translateY(${first * ROW}px)`))}>
              {rows.map((line, i) => <li key={first + i} class={level(line)}>{word ? marked(line, word) : <Said text={line} />}</li>)}
            </ol>
          </div>
          {!shown.length && <p class="none">No line has “{find}”.</p>}
        </div>
      )}
    </Card>
  );
}

/** What it printed: the end of it as a whole once, then what is new. While it is paused it stands still. */
function useLines(id: number, tail: string, follows: boolean) {
  const [state, set] = useState<{ of: string; lines: string[]; error?: Failed }>({ of: "", lines: [] });
  const [wish, again] = useState(0);
  const of = `${id}/${tail}`;
  const kept = useRef(state);
  kept.current = state;
  useEffect(() => {
    const stop = new AbortController();
    let reading = false;
    const read = async () => {
      if (reading || document.visibilityState === "hidden") return;
      reading = true;
      const whole = kept.current.of !== of;
      try {
        const { text } = await get<{ text: string }>(`/v1/workers/${id}/logs?tail=${whole ? tail : FRESH}`, stop.signal);
        const fresh = text ? text.replace(/\n$/, "").split("\n") : [];
        if (!stop.signal.aborted) set({ of, lines: whole ? fresh : joined(kept.current.lines, fresh) });
      } catch (error) {
        if (!stop.signal.aborted) set({ ...kept.current, error: error as Failed });
      }
      reading = false;
    };
    if (follows || kept.current.of !== of) void read();
    const timer = follows ? window.setInterval(read, EVERY_MS) : 0;
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [id, tail, follows, wish]);
  return { lines: state.lines, value: state.of.startsWith(`${id}/`), error: state.error, again: () => again(wish + 1) };
}

/** The lines with what was printed since, of which `fresh` is the end. The last line may have been half a line. */
export function joined(lines: string[], fresh: string[]): string[] {
  const sure = lines.slice(0, -1);
  const from = Math.max(0, sure.length - fresh.length);
  for (let at = from; at < sure.length; at++) {
    const same = sure.length - at;
    let i = 0;
    while (i < same && sure[at + i] === fresh[i]) i++;
    if (i < same) continue;
    const after = fresh.slice(same);
    if (after.length === 1 && after[0] === lines.at(-1)) return lines;
    return [...sure, ...after].slice(-MOST);
  }
  return fresh.length < FRESH ? fresh : [...lines, ...fresh].slice(-MOST); // it began anew, or printed more meanwhile
}

function level(line: string): string | undefined {
  if (/\b(ERROR|CRITICAL|FATAL|Traceback)\b/.test(line.slice(0, 200))) return "bad";
  return /\bWARN(ING)?\b/.test(line.slice(0, 200)) ? "warn" : undefined;
}

function marked(line: string, word: string) {
  const at = line.toLowerCase().indexOf(word);
  if (at < 0) return <Said text={line} />;
  return <><Said text={line.slice(0, at)} /><mark><Said text={line.slice(at, at + word.length)} /></mark><Said text={line.slice(at + word.length)} /></>;
}

function download(id: number, lines: string[]): void {
  const address = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/plain" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: `worker-${id}.log` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
