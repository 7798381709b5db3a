// What runs in the Node image: HTTP on 127.0.0.1:8080, which tells what it finds; inotify and a worker thread.
const fs = require("fs"), http = require("http"), { Worker } = require("worker_threads");

http
  .createServer((_, response) => {
    const watcher = fs.watch("/tmp", (event) => {
      watcher.close();
      const worker = new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
      worker.once("message", (answer) =>
        response.end(
          JSON.stringify({ event, answer, uid: process.getuid(), cwd: process.cwd(), words: process.argv.slice(2) })
        )
      );
    });
    fs.writeFileSync("/tmp/new", "x");
  })
  .listen(8080, "127.0.0.1");
