// Drives Chromium for tests: reads a JSON command a line, and answers each with a line of JSON. Its argument is the
// folder node_modules with playwright-core and axe-core; the environment names the browser (SHARDKEEPER_TEST_CHROMIUM).
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const modules = process.argv[2];
const require = createRequire(modules + '/');
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const browser = await chromium.launch({
  executablePath: process.env.SHARDKEEPER_TEST_CHROMIUM,
  // Tests run as root in containers, where Chromium has no sandbox.
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--enable-precise-memory-info'],
});
const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })).newPage();
const errors = [];
page.on('console', message => { if (message.type() === 'error') errors.push(message.text()); });
page.on('pageerror', error => errors.push(String(error)));

const commands = {
  open: ({ url }) => page.goto(url).then(() => null),
  // Looks of the page: the text, and the attributes if they are asked for, of all elements that match.
  read: ({ selector, attribute }) => page.$$eval(selector, (found, attribute) =>
    found.map(node => attribute ? node.getAttribute(attribute) : node.textContent), attribute),
  press: ({ selector, key }) => (selector ? page.press(selector, key) : page.keyboard.press(key)).then(() => null),
  focus: () => page.evaluate(() => document.activeElement.id || document.activeElement.tagName),
  click: ({ selector }) => page.click(selector).then(() => null),
  select: ({ selector, value }) => page.selectOption(selector, value).then(() => null),
  scheme: ({ value }) => page.emulateMedia({ colorScheme: value }).then(() => null),
  size: ({ width, height }) => page.setViewportSize({ width, height }).then(() => null),
  overflow: () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
  screenshot: ({ path }) => page.evaluate(() => scrollTo(0, 0)).then(() => page.screenshot({ path })).then(() => null),
  errors: () => errors,
  // The violations that axe finds, each with the elements. It is put in by the debugger, which the page's policy allows.
  axe: async () => {
    const session = await page.context().newCDPSession(page);
    await session.send('Runtime.evaluate', { expression: axe });
    const { result } = await session.send('Runtime.evaluate', {
      expression: 'axe.run().then(found => JSON.stringify(found.violations.map(v => v.id + ": " + v.nodes.map(n => n.target + " " + n.failureSummary).join("; "))))',
      awaitPromise: true,
    });
    return JSON.parse(result.value);
  },
  // Answers the page's requests of a path by this body from now on.
  answer: ({ path, body }) => page.route('**/' + path, route => route.fulfill({ contentType: 'application/json', body })).then(() => null),
  weight: async () => {
    const session = await page.context().newCDPSession(page);
    await session.send('HeapProfiler.collectGarbage');
    return page.evaluate(() => ({ heap: performance.memory.usedJSHeapSize, nodes: document.querySelectorAll('*').length }));
  },
  // The time that the page needs for a status, drawing included, in milliseconds.
  draw: ({ body }) => page.evaluate(text => {
    const from = performance.now();
    take(JSON.parse(text));
    return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now() - from))));
  }, body),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ value: await commands[command](rest) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
