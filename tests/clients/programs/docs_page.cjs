// Opens /docs in jsdom as a person does: without a key, with a wrong one, with a good one; then tries it.
"use strict";

const { JSDOM, VirtualConsole } = require("jsdom");

const [base, key] = process.argv.slice(2);

async function until(condition) {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("this never came: " + condition);
}

async function main() {
  const errors = [];
  const virtualConsole = new VirtualConsole();
  virtualConsole.on("jsdomError", (error) => errors.push(String(error)));
  const opened = await fetch(`${base}/docs`, { headers: { accept: "text/html,*/*;q=0.8" } });
  const page = new JSDOM(await opened.text(), {
    url: opened.url,
    runScripts: "dangerously",
    virtualConsole,
    beforeParse(window) {
      window.fetch = (path, options) => fetch(new URL(path, opened.url), options);
      window.TextDecoderStream = TextDecoderStream;
    },
  });
  const { document, Event } = page.window;
  const text = () => document.getElementById("main").textContent;
  const field = document.getElementById("key");
  const give = (value) => {
    field.value = value;
    field.dispatchEvent(new Event("change"));
  };
  await until(() => !text().startsWith("Reading"));
  const told = { url: opened.url, locked: text() };
  give("wrong");
  await until(() => text() !== told.locked);
  told.wrong = text();
  give(key);
  await until(() => document.querySelector("details"));
  const boxes = [...document.querySelectorAll("details")];
  const box = boxes.find((one) => one.querySelector("summary code")?.textContent === "/v1/models");
  box.querySelector("button").click();
  await until(() => box.querySelector("pre")?.textContent.includes("object"));
  told.tried = box.querySelector("pre").textContent;
  console.log(JSON.stringify({ ...told, boxes: boxes.length, errors }));
  page.window.close();
}

main();
