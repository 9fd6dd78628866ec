import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const CARRIED = ["preact", "uplot", "@fontsource-variable/inter", "@fontsource-variable/geist-mono"];
const SOURCES = ["index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src"];
const GENERATED = "src/schema.d.ts";

/** Every source, by its path with slashes, in the order of their bytes. tests/unit/test_console.py does the same. */
function sources(path: string): string[] {
  if (/\.[a-z]+$/.test(path)) return path === GENERATED ? [] : [path];
  return readdirSync(path)
    .sort()
    .flatMap((name) => sources(`${path}/${name}`));
}

/** Puts beside the bundle the licences of what it carries, and the digest of what it was built from. */
function notes(): Plugin {
  return {
    name: "notes",
    apply: "build",
    generateBundle() {
      const licences = CARRIED.map((name) => `${name}\n\n${readFileSync(join("node_modules", name, "LICENSE"), "utf8")}`);
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: licences.join(`\n${"-".repeat(80)}\n\n`) });
      const digest = createHash("sha256");
      for (const path of SOURCES.flatMap(sources)) digest.update(`${path}\n`).update(readFileSync(path));
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${digest.digest("hex")}\n` });
    },
  };
}

export default defineConfig({
  base: "/console/",
  plugins: [notes()],
  build: {
    outDir: "../src/posthouse/server/console/bundle",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the policy allows no data: address
    modulePreload: false,
    cssCodeSplit: false,
    rollupOptions: {
      // Names that stay: the server says by a tag whether a file has changed.
      output: { entryFileNames: "assets/console.js", assetFileNames: "assets/[name][extname]", codeSplitting: false },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8080", "/api": "http://127.0.0.1:8080" } },
});
