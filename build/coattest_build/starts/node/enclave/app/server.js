'use strict'
// The service: what it answers.

const { createHash } = require('node:crypto')
const http = require('node:http')
const { PORT, attest } = require('./host.js')

http.createServer(async (request, response) => {
  try {
    const url = new URL(request.url, 'http://enclave')
    const name = url.pathname.match(/^\/hello\/([^/]+)$/)
    const nonce = Buffer.from(url.searchParams.get('nonce') ?? '', 'hex')
    if (!name || nonce.length !== 32) {
      response.writeHead(404).end()
      return
    }
    // The document's user_data is the answer's SHA-384, its nonce the caller's.
    const answer = `Hello, ${decodeURIComponent(name[1])}.`
    const document = await attest(createHash('sha384').update(answer).digest(), nonce)
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ answer, document: document.toString('base64') }))
  } catch (error) {
    console.error(error.message)
    response.writeHead(500).end()
  }
}).listen(PORT, '127.0.0.1')
