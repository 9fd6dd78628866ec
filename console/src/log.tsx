/** What a worker printed: live, searched, and only the rows that are in view are drawn. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { Worker } from "./api";
import { useAnswer } from "./live";
import { Card, Choice, Empty, Icon, Loading, Problem } from "./parts";
import { Said } from "./text";

const ROW = 18; // pixels
const HEIGHT = 360;
const TAILS = [["1000", "1,000 lines"], ["10000", "10,000"]] as const; // that are asked for, from the end

export function Log({ worker }: { worker: Worker }) {
  const [follows, setFollows] = useState(true);
  const [find, setFind] = useState("");
  const [top, setTop] = useState(0);
  const [kept, setKept] = useState<string[]>([]);
  const box = useRef<HTMLDivElement>(null);
  const [tail, setTail] = useState<"1000" | "10000">("1000");
  // Read again as a whole: what a provider hands over need not only grow at its end. While it is paused it stands still.
  const everyMs = worker.gone_at || !follows ? undefined : 2000;
  const { value, error, again } = useAnswer<{ text: string }>(`/v1/workers/${worker.id}/logs?tail=${tail}`, { everyMs });
  useEffect(() => {
    if (value) setKept(value.text ? value.text.replace(/\n$/, "").split("\n") : []);
  }, [value]);
  const lines = kept;
  const word = find.toLowerCase();
  const shown = word ? lines.filter((line) => line.toLowerCase().includes(word)) : lines;
  const first = Math.max(0, Math.floor(top / ROW) - 10);
  const rows = shown.slice(first, first + Math.ceil(HEIGHT / ROW) + 20);
  useEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown.length, follows, value]);
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
      {word && <span class="sub">{shown.length} of {lines.length} lines</span>}
      <Choice label="Lines" value={tail} options={TAILS} choose={setTail} />
      {!worker.gone_at && <button class="button icon" type="button" aria-label={follows ? "Pause" : "Follow"} title={follows ? "Pause" : "Follow"} onClick={() => setFollows(!follows)}><Icon name={follows ? "pause" : "play"} /></button>}
      <button class="button icon" type="button" aria-label="Download the log" title="Download" disabled={!lines.length} onClick={() => download(worker.id, lines)}><Icon name="down" /></button>
    </>
  );
  return (
    <Card title="Log" sub={lines.length ? state : undefined} right={controls} class="logcard">
      {error && !value && <Problem error={error} again={again} />}
      {!value && !error && <Loading lines={5} />}
      {value && !value.text && <Empty title="It has printed nothing yet"><p>What it prints is shown as its provider hands it over.</p></Empty>}
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
