// Opens deploy/web in a browser without a window and says what it shows, as JSON.
//
//     node web_page.mjs MODULES URL [SCREENSHOT]      MODULES: where playwright-core lies
//
// It waits until the page is ready, then types each line of standard input, which are JSON:
// {"text": ..., "press": "run" or "compare"}, and reads the page after each.

import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [modules, url, screenshot] = process.argv.slice(2);
const { chromium } = createRequire(join(resolve(modules), "x.js"))("playwright-core");
const profile = mkdtempSync(join(tmpdir(), "page-"));
const quiet = ["quic", "background-networking", "component-update", "sync"].map((each) => `--disable-${each}`);
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.EDGEPRUNE_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", ...quiet],
  viewport: { width: 900, height: 700 },
});
const faults = [];
const page = await browser.newPage();
page.on("pageerror", (error) => faults.push(error.message));
page.on("requestfailed", (request) => faults.push(`${request.url()}: ${request.failure().errorText}`));

const shown = () =>
  page.evaluate(() => {
    const text = (id) => document.getElementById(id).textContent.trim();
    const rows = [...document.querySelectorAll("#answer tr")];
    return {
      ...Object.fromEntries(["name", "about", "answer", "time"].map((id) => [id, text(id)])),
      rows: rows.map((row) => [row.cells[1].textContent, Number(row.cells[0].textContent)]),
      fault: document.getElementById("fault").hidden ? null : text("fault"),
    };
  });
const free = () => page.waitForFunction(() => !document.getElementById("run").disabled, null, { timeout: 120_000 });

try {
  await page.goto(url);
  await page.waitForFunction(() => document.body.dataset.ready, null, { timeout: 120_000 });
  const steps = [await shown()];
  for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    const { text, press } = JSON.parse(line);
    if (text !== undefined) await page.fill("#text", text);
    await page.click(`#${press}`);
    await free();
    steps.push(await shown());
  }
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify({ steps, faults, browser: browser.browser()?.version() ?? (await page.evaluate(() => navigator.userAgent)) }));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
