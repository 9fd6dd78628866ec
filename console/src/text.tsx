/** What workers, templates and clients say: text, whatever is in it. */

// Control characters, terminal escapes, marks of direction, and what takes no room on the screen.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const NAMES: Record<number, string> = { 0: "NUL", 7: "BEL", 8: "BS", 13: "CR", 27: "ESC", 127: "DEL" };

/** The text, with each character that cannot be seen as a small box with its code. */
export function Said({ text, most = 10_000 }: { text: string; most?: number }) {
  const shown = text.length > most ? text.slice(0, most) : text;
  const parts: preact.ComponentChildren[] = [];
  let from = 0;
  for (const match of shown.matchAll(HIDDEN)) {
    parts.push(shown.slice(from, match.index));
    const code = match[0].charCodeAt(0);
    parts.push(<span class="ctl">{NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`}</span>);
    from = match.index + 1;
  }
  parts.push(shown.slice(from));
  return (
    <bdi>
      {parts}
      {text.length > most && " …"}
    </bdi>
  );
}

/** The same as a plain string, for attributes and titles. */
export const plain = (text: string) => text.replace(HIDDEN, "�").slice(0, 500);
