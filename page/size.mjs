// Prints what a browser has to load, gzipped, and fails if it is too much.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const FOLDER = "../src/dure/serve/page/static/";
const MOST_KB = 200;

const files = readdirSync(FOLDER, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => `${entry.parentPath}/${entry.name}`);
const sizes = files.map((file) => gzipSync(readFileSync(file)).length / 1000);
const total = sizes.reduce((sum, size) => sum + size, 0);

files.forEach((file, i) =>
  console.log(`${sizes[i].toFixed(1).padStart(7)} kB  ${file.slice(FOLDER.length)}`),
);
console.log(`${total.toFixed(1).padStart(7)} kB  in all, gzipped`);
if (total > MOST_KB) {
  console.error(`The page weighs ${total.toFixed(1)} kB gzipped: ${MOST_KB} kB are allowed.`);
  process.exit(1);
}
