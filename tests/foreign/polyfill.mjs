// js-libp2p 3 is written for Node 22; this is what Node 20 lacks of it. Imported first.

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
