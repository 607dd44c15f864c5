import { defineConfig } from "vite";

declare const process: { readonly env: Readonly<Record<string, string | undefined>> };

// `dure serve` answers `/` with index.html, and has the assets at page/assets/. All addresses are relative, so
// that the page also works behind a proxy that serves it under a path.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/dure/serve/page/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    rolldownOptions: {
      // All that the first view needs is one file; each of the other views has its own.
      output: { codeSplitting: { groups: [{ name: "first", tags: ["$initial"] }] } },
    },
    reportCompressedSize: false, // size.mjs measures what is served, and refuses too much
  },
  experimental: {
    renderBuiltUrl: (filename, { hostType }) =>
      hostType === "html" ? `page/${filename}` : { relative: true },
  },
  server: {
    // `npm run dev` beside a running server: DURE=http://127.0.0.1:8080 npm run dev
    proxy: Object.fromEntries(
      ["/v1", "/page"].map((path) => [path, process.env["DURE"] ?? "http://127.0.0.1:8080"]),
    ),
  },
});
