'use strict'
// What bridge.py has of the host: a port that it carries connections to, and the Nitro Secure Module.

const net = require('node:net')

const PORT = 8080
const NSM = '/tmp/nsm.sock'
// CBOR: {"Attestation": {"document": bytes of a u16 length
const HEAD = Buffer.from('\xa1kAttestation\xa1hdocumentY', 'latin1')

/** A document over userData (48 bytes) and nonce (32 bytes). */
async function attest (userData, nonce) {
  const request = Buffer.concat([
    Buffer.from('\xa1kAttestation\xa3iuser_dataX\x30', 'latin1'), userData,
    Buffer.from('enonceX\x20', 'latin1'), nonce,
    Buffer.from('jpublic_key\xf6', 'latin1')
  ])
  const response = await ask(request)
  if (!response.subarray(0, HEAD.length).equals(HEAD)) throw new Error('the NSM gave no document')
  return response.subarray(HEAD.length + 2).subarray(0, response.readUInt16BE(HEAD.length))
}

/** One request: a length (u32, big-endian) before each message. */
function ask (request) {
  return new Promise((resolve, reject) => {
    const stream = net.connect(NSM)
    let got = Buffer.alloc(0)
    stream.on('error', reject)
    stream.on('end', () => reject(new Error('the NSM said nothing')))
    stream.on('data', part => {
      got = Buffer.concat([got, part])
      if (got.length >= 4 && got.length >= 4 + got.readUInt32BE()) {
        resolve(got.subarray(4, 4 + got.readUInt32BE()))
        stream.destroy()
      }
    })
    const length = Buffer.alloc(4)
    length.writeUInt32BE(request.length)
    stream.write(Buffer.concat([length, request]))
  })
}

module.exports = { PORT, attest }
