/** What an endpoint cost, the least it could have been, and what lies between. */
import type { Bill, BillDay } from "../api";
import { span, usd } from "../format";
import { useAnswer } from "../live";
import { Bar, Card, Choice, Empty, Loading, Problem, Tile } from "../parts";
import { ask, asked, at, endpointAt } from "../route";
import { Said } from "../text";

const DAYS = [["0", "Today"], ["", "7 d"], ["13", "14 d"]] as const; // whole days before today
/** A part, its name, its colour, and what it is. */
const PARTS: [keyof BillDay & string, string, string, string][] = [
  ["least_usd", "The least", "hot", "Machines that did the work, busy all the while."],
  ["headroom", "Headroom", "hot-2", "Ready beyond what whole workers need where nobody waits."],
  ["whole_workers", "Whole workers", "draining", "A worker cannot be had in parts."],
  ["waits_not_used", "Waits not used", "ink", "Requests were begun sooner than they had to be."],
  ["starts", "Starts", "loading", "Workers that were created, loaded, updated or in trouble."],
  ["storage", "Storage", "cold-2", "Stopped workers."],
];
const date = (day: BillDay) => new Date(day.begin * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const parts = (day: BillDay): [string, number][] => PARTS.map(([key, , kind]) => [kind, Math.max(0, day[key] as number)]);

/** Its traffic of a day is played with that change, at once. */
const played = (name: string, change: Record<string, number | string>) => `${endpointAt(name, "what-if")}?${new URLSearchParams(Object.entries(change).map(([key, to]) => [key, String(to)]))}`;
const words = (change: Record<string, number | string>) => Object.entries(change).map(([key, to]) => `${key} ${to}`).join(", ");

export function BillTab({ path, name }: { path: string; name: string }) {
  const days = asked("days");
  const { value, error, again } = useAnswer<Bill>(`${path}/bill?days=${days || 6}`, { everyMs: 120_000 });
  const choice = <Choice label="Days" value={days as ""} options={DAYS as readonly (readonly ["", string])[]} choose={(wish) => ask("days", wish)} />;
  if (error?.status === 404 || value?.days.length === 0)
    return <Card title="Bill" right={choice}><Empty title="Nothing is recorded yet"><p>The bill is made of the endpoint's recorded traffic, from its first request on.</p></Empty></Card>;
  if (!value) return <Card title="Bill" right={choice}>{error ? <Problem error={error} again={again} /> : <Loading lines={5} />}</Card>;
  const { total } = value;
  const over = total.usd - total.least_usd;
  return (
    <div class="stack wide">
      <Card title="Paid, and the least possible" sub={`${total.requests.toLocaleString("en-US")} requests in ${span(total.recorded_s)} that are recorded`} right={choice}>
        <div class="tiles three">
          <Tile name="Paid" value={usd(total.usd)}>for all that it had</Tile>
          <Tile name="The least possible" value={usd(total.least_usd)}>{total.least_usd > 0 ? `for the same work; paid ${(total.usd / total.least_usd).toFixed(2)} × that` : "nothing was served"}</Tile>
          <Tile name="Between the two" value={usd(over)}>{total.usd > 0 ? `${Math.round((100 * over) / total.usd)} % of what was paid` : "nothing was paid"}</Tile>
        </div>
        <div class="body stack">
          <Bar parts={total.usd > 0 ? parts(total) : [["none", 1]]} label={PARTS.map(([key, title]) => `${title} ${usd(total[key] as number)}`).join(", ")} />
          <p class="muted">A request may wait {span(value.wait_s)}. The least is a bound, which no fleet of whole workers reaches.</p>
        </div>
        <table class="table fold">
          <thead><tr><th scope="col">Part</th><th scope="col" class="number">Paid</th><th scope="col" class="number">Share</th><th scope="col">What would take it away</th><th scope="col"><span class="hidden">Act</span></th></tr></thead>
          <tbody>{PARTS.map(([key, title, kind, what]) => (
            <tr key={key}>
              <th scope="row"><i class={`key fill-${kind}`} /> {title}<small>{what}</small></th>
              <td class="number" data-name="Paid">{usd(total[key] as number)}</td>
              <td class="number" data-name="Share">{total.usd > 0 ? `${((100 * (total[key] as number)) / total.usd).toFixed(1)} %` : "–"}</td>
              <td class="wide">{value.what_if[key] && <small class="wraps"><Said text={value.what_if[key]!} most={400} /></small>}</td>
              <td class="last ends">{value.changes[key] ? <a class="button small" href={played(name, value.changes[key]!)} title={words(value.changes[key]!)}>What if<span class="hidden"> {words(value.changes[key]!)}</span></a>
                : key === "whole_workers" && <a class="button small" href={at("offers")}>Offers</a>}</td>
            </tr>
          ))}</tbody>
        </table>
        <p class="body"><a class="button" href={endpointAt(name, "what-if")}>Try other settings…</a></p>
      </Card>
      <Card title="Day by day" sub="in UTC">
        <table class="table fold">
          <thead><tr><th scope="col">Day</th><th scope="col" class="number">Paid</th><th scope="col" class="number">The least</th><th scope="col">Parts</th><th scope="col" class="number">Requests</th></tr></thead>
          <tbody>{[...value.days].reverse().map((day) => (
            <tr key={day.begin}>
              <th scope="row">{date(day)}</th>
              <td class="number" data-name="Paid">{usd(day.usd)}</td>
              <td class="number" data-name="The least">{usd(day.least_usd)}</td>
              <td class="wide"><Bar parts={day.usd > 0 ? parts(day) : [["none", 1]]} label={`of ${usd(day.usd)} ${usd(day.least_usd)} is the least`} /></td>
              <td class="number" data-name="Requests">{day.requests.toLocaleString("en-US")}</td>
            </tr>
          ))}</tbody>
        </table>
      </Card>
      {value.notes.length > 0 && <Card title="What was assumed"><ul class="body notes">{value.notes.map((text) => <li><Said text={text[0]!.toUpperCase() + text.slice(1)} most={400} />.</li>)}</ul></Card>}
    </div>
  );
}
