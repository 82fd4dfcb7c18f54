#!/usr/bin/env python3
"""Checks the test vectors of CoBox without any of its code.

Written from docs/format.md alone (the numbers in comments are its sections), with nothing but Python's
standard library: every primitive is here, slow and plain, and is first checked against the published
test vectors of its own specification. Then each docs/vectors/*.json is read: positive cases must be
accepted and give what they state, negative cases must be refused, and the story must open from the
24 words alone. Usage: verify.py [FILE.json ...]
"""

import hashlib
import hmac
import json
import struct
import sys
import unicodedata
from pathlib import Path

HERE = Path(__file__).resolve().parent
MASK = 0xFFFFFFFF


class Refused(Exception):
    """The bytes are not what the format says."""


class Skipped(Exception):
    """This Python lacks something that the case needs."""


def need(condition, why):
    if not condition:
        raise Refused(why)


# ---------------------------------------------------------------- BLAKE3 (1.3)

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTE = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
LEAF = 1024
SLICE = 65536


def compress(cv, words, counter, length, flags):
    s = list(cv) + [IV[0], IV[1], IV[2], IV[3], counter & MASK, counter >> 32, length, flags]
    m = list(words)
    for turn in range(7):
        for a, b, c, d, i in ((0, 4, 8, 12, 0), (1, 5, 9, 13, 2), (2, 6, 10, 14, 4), (3, 7, 11, 15, 6),
                              (0, 5, 10, 15, 8), (1, 6, 11, 12, 10), (2, 7, 8, 13, 12), (3, 4, 9, 14, 14)):
            x, y = m[i], m[i + 1]
            sa, sb, sc, sd = s[a], s[b], s[c], s[d]
            sa = (sa + sb + x) & MASK
            sd ^= sa
            sd = (sd >> 16 | sd << 16) & MASK
            sc = (sc + sd) & MASK
            sb ^= sc
            sb = (sb >> 12 | sb << 20) & MASK
            sa = (sa + sb + y) & MASK
            sd ^= sa
            sd = (sd >> 8 | sd << 24) & MASK
            sc = (sc + sd) & MASK
            sb ^= sc
            sb = (sb >> 7 | sb << 25) & MASK
            s[a], s[b], s[c], s[d] = sa, sb, sc, sd
        if turn < 6:
            m = [m[p] for p in PERMUTE]
    return [s[i] ^ s[i + 8] for i in range(8)] + [s[i + 8] ^ cv[i] for i in range(8)]


def words_of(block):
    return struct.unpack("<16I", block.ljust(64, b"\0"))


class Node:
    """A node of BLAKE3's tree before its last compression."""

    def __init__(self, cv, words, counter, length, flags):
        self.args = (cv, words, counter, length, flags)

    def value(self):
        return compress(*self.args)[:8]

    def value_bytes(self):
        return struct.pack("<8I", *self.value())

    def root(self):
        cv, words, _, length, flags = self.args
        return struct.pack("<8I", *compress(cv, words, 0, length, flags | ROOT)[:8])


def leaf_node(leaf, counter, key, flags):
    blocks = [leaf[at:at + 64] for at in range(0, len(leaf), 64)] or [b""]
    cv = key
    for at, block in enumerate(blocks):
        mark = flags | (CHUNK_START if at == 0 else 0) | (CHUNK_END if at == len(blocks) - 1 else 0)
        node = Node(cv, words_of(block), counter, len(block), mark)
        if at < len(blocks) - 1:
            cv = node.value()
    return node


def parent_node(left, right, key=IV, flags=0):
    return Node(key, tuple(left) + tuple(right), 0, 64, flags | PARENT)


def left_count(count):
    """The greatest power of two below count (6.1)."""
    return 1 << ((count - 1).bit_length() - 1)


def tree_node(data, first=0, key=IV, flags=0):
    if len(data) <= LEAF:
        return leaf_node(data, first, key, flags)
    left = left_count((len(data) + LEAF - 1) // LEAF)
    a = tree_node(data[:left * LEAF], first, key, flags)
    b = tree_node(data[left * LEAF:], first + left, key, flags)
    return parent_node(a.value(), b.value(), key, flags)


def H(data):
    return tree_node(data).root()


def KH(key, data):
    return tree_node(data, 0, struct.unpack("<8I", key), KEYED).root()


def DK(purpose, data):
    context = ("cobox 2026-11 v1 " + purpose).encode()
    key = tree_node(context, 0, IV, CONTEXT).root()
    return tree_node(data, 0, struct.unpack("<8I", key), MATERIAL).root()


# ---------------------------------------------------------------- ChaCha20-Poly1305, XChaCha (1.5)

def quarter(s, a, b, c, d):
    for first, second, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[first] = (s[first] + s[second]) & MASK
        mixed = s[third] ^ s[first]
        s[third] = (mixed << by | mixed >> (32 - by)) & MASK


def chacha_rounds(s):
    for _ in range(10):
        for at in range(4):
            quarter(s, at, at + 4, at + 8, at + 12)
        quarter(s, 0, 5, 10, 15)
        quarter(s, 1, 6, 11, 12)
        quarter(s, 2, 7, 8, 13)
        quarter(s, 3, 4, 9, 14)
    return s


SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def chacha_block(key, counter, nonce):
    start = list(SIGMA + struct.unpack("<8I", key) + (counter,) + struct.unpack("<3I", nonce))
    s = chacha_rounds(list(start))
    return struct.pack("<16I", *((a + b) & MASK for a, b in zip(s, start)))


def hchacha(key, nonce16):
    s = chacha_rounds(list(SIGMA + struct.unpack("<8I", key) + struct.unpack("<4I", nonce16)))
    return struct.pack("<8I", *(s[:4] + s[12:]))


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at:at + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) & ((1 << 128) - 1)).to_bytes(16, "little")


def pad16(data):
    return data + bytes(-len(data) % 16)


def aead_open(key, nonce, aad, sealed):
    need(len(sealed) >= 16, "shorter than an AEAD tag")
    text, tag = sealed[:-16], sealed[-16:]
    mac = poly1305(chacha_block(key, 0, nonce)[:32],
                   pad16(aad) + pad16(text) + struct.pack("<QQ", len(aad), len(text)))
    need(hmac.compare_digest(mac, tag), "AEAD tag")
    out = bytearray()
    for at in range(0, len(text), 64):
        block = chacha_block(key, 1 + at // 64, nonce)
        out += bytes(a ^ b for a, b in zip(text[at:at + 64], block))
    return bytes(out)


def unseal(key, aad, sealed):
    """The inverse of SEAL: 24 bytes of nonce stand in front."""
    need(len(sealed) >= 40, "shorter than a nonce and a tag")
    return aead_open(hchacha(key, sealed[:16]), bytes(4) + sealed[16:24], aad, sealed[24:])


# ---------------------------------------------------------------- X25519, HKDF, HPKE (3.6)

P = (1 << 255) - 19


def x25519(scalar, point):
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 255) - 1) | (1 << 254)
    u = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


BASE_POINT = (9).to_bytes(32, "little")
KEM_ID = b"KEM" + struct.pack(">H", 0x20)
HPKE_ID = b"HPKE" + struct.pack(">HHH", 0x20, 1, 3)


def hkdf_extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def hkdf_expand(prk, info, length):
    out, block = b"", b""
    for at in range(1, 255):
        if len(out) >= length:
            break
        block = hmac.new(prk, block + info + bytes([at]), hashlib.sha256).digest()
        out += block
    return out[:length]


def labeled_extract(suite, salt, label, ikm):
    return hkdf_extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)


def derive_key_pair(seed):
    secret = labeled_expand(KEM_ID, labeled_extract(KEM_ID, b"", b"dkp_prk", seed), b"sk", b"", 32)
    return secret, x25519(secret, BASE_POINT)


def hpke_open(secret, info, aad, box):
    enc, sealed = box[:32], box[32:]
    public = x25519(secret, BASE_POINT)
    shared = x25519(secret, enc)
    need(shared != bytes(32), "a KEM key of small order")
    prk = labeled_extract(KEM_ID, b"", b"eae_prk", shared)
    shared = labeled_expand(KEM_ID, prk, b"shared_secret", enc + public, 32)
    context = (b"\0" + labeled_extract(HPKE_ID, b"", b"psk_id_hash", b"")
               + labeled_extract(HPKE_ID, b"", b"info_hash", info))
    prk = labeled_extract(HPKE_ID, shared, b"secret", b"")
    key = labeled_expand(HPKE_ID, prk, b"key", context, 32)
    nonce = labeled_expand(HPKE_ID, prk, b"base_nonce", context, 12)
    return aead_open(key, nonce, aad, sealed)


# ---------------------------------------------------------------- Ed25519 (1.6)

L = (1 << 252) + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_mul(k, p):
    total = (0, 1, 1, 0)
    while k:
        if k & 1:
            total = point_add(total, p)
        p = point_add(p, p)
        k >>= 1
    return total


def point_equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def point_decode(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    need(y < P, "a point that is not canonical")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    need((x * x - square) % P == 0, "not a point of the curve")
    need(x or not sign, "a point that is not canonical")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def point_encode(p):
    z = pow(p[2], P - 2, P)
    x, y = p[0] * z % P, p[1] * z % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


NEUTRAL = (0, 1, 1, 0)
GENERATOR = point_decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_public(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ~7 & ((1 << 254) - 1) | (1 << 254)
    return point_encode(point_mul(scalar, GENERATOR))


def ed25519_verify(public, message, signature):
    a, r = point_decode(public), point_decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    need(s < L, "a signature that is not canonical")
    for point in (a, r):
        need(not point_equal(point_mul(8, point), NEUTRAL), "a point of small order")
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    need(point_equal(point_mul(s, GENERATOR), point_add(r, point_mul(h, a))), "signature")


# ---------------------------------------------------------------- Reading (1.1, 1.2)

SUITE = b"\1"


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        need(len(self.data) - self.at >= length, "cut short")
        self.at += length
        return self.data[self.at - length:self.at]

    def left(self):
        return len(self.data) - self.at

    def done(self):
        need(self.left() == 0, "bytes after the end")

    def number(self, length, signed=False):
        return int.from_bytes(self.take(length), "little", signed=signed)

    def u8(self):
        return self.number(1)

    def u16(self):
        return self.number(2)

    def u32(self):
        return self.number(4)

    def u64(self):
        return self.number(8)

    def i64(self):
        return self.number(8, signed=True)

    def bytes16(self, most):
        length = self.u16()
        need(length <= most, "too long")
        return self.take(length)

    def bytes32(self, most):
        length = self.u32()
        need(length <= most, "too long")
        return self.take(length)

    def flag(self):
        value = self.u8()
        need(value < 2, "not a flag")
        return value == 1

    def list(self, most, read):
        count = self.u16()
        need(count <= most, "too many")
        return [read(self) for _ in range(count)]

    def start(self, version=1):
        need(self.u8() == version, "version")
        need(self.take(1) == SUITE, "suite")

    def opid(self):
        return self.u64(), self.u64()

    def opids(self):
        return ascending(self.list(1024, Reader.opid))

    def id32(self):
        return self.take(32)


def ascending(items, key=lambda item: item):
    need(all(key(a) < key(b) for a, b in zip(items, items[1:])), "not strictly ascending")
    return items


def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    mask = (1 << max(0, e - e.bit_length())) - 1
    return (n + mask) & ~mask


def is_size_class(size):
    return 4096 <= size <= 1 << 24 and padme(size) == size


# ---------------------------------------------------------------- Access log (4)

def read_device(r):
    device = {"log": r.id32(), "kem": r.id32(), "member": r.id32(), "recovery_kem": r.id32(), "role": r.u8()}
    need(device["role"] <= 3, "role")
    device["label"] = r.take(168)
    return device


def read_boxes(r):
    return dict(ascending(r.list(4096, lambda r: (r.id32(), r.take(80))), key=lambda item: item[0]))


def read_end(r):
    end = r.id32(), r.u64(), r.id32()
    need((end[1] == 0) == (end[2] == bytes(32)), "end of a log")
    return end


def read_ends(r):
    return ascending(r.list(1024, read_end), key=lambda end: end[0])


def read_cut(r):
    cut = ascending(r.list(1024, lambda r: (r.id32(), r.u64())), key=lambda item: item[0])
    need(all(seq > 0 for _, seq in cut), "cut")
    return cut


def read_packs(r):
    return ascending(r.list(8192, Reader.id32))


def check_redemption(record):
    act = record["act"]
    device = act["device"]
    keys = device["log"] + device["kem"] + device["member"] + device["recovery_kem"]
    signed = b"cobox/v1/invite" + H(record["folder"][:16] + keys)
    ed25519_verify(act["invite"], signed, act["redemption"])


def read_act(r):
    kind = r.u8()
    if kind == 1:
        act = {"nonce": r.id32(), "fold_case": r.flag(), "unicode": r.take(2)}
        act.update(device=read_device(r), name=r.take(168))
    elif kind == 2:
        act = {"device": read_device(r)}
    elif kind == 8:
        act = {"peer_id": r.bytes16(64), "kem": r.id32(), "quota": r.u64(), "until": r.u64()}
        act["addresses"] = r.list(16, lambda r: r.bytes16(256))
        act.update(swarm_epoch=r.id32(), swarm_box=r.take(80))
    elif kind in (3, 10):
        act = {"end": read_end(r)}
        need(kind == 3 or act["end"][1] > 0, "vouch")
    elif kind == 4:
        act = {"member": r.id32(), "ends": read_ends(r)}
    elif kind == 5:
        act = {"member": r.id32(), "role": r.u8(), "ends": read_ends(r)}
        need(1 <= act["role"] <= 3 and (act["role"] == 1 or not act["ends"]), "role")
    elif kind == 6:
        act = {"invite": r.id32(), "role": r.u8(), "expires": r.u64(), "label_key": r.take(72)}
        need(1 <= act["role"] <= 3, "role")
    elif kind == 7:
        act = {"invite": r.id32()}
    elif kind == 9:
        act = {"peer_id": r.bytes16(64)}
    elif kind == 12:
        act = {"copies": r.u8(), "tolerance": r.u64()}
        need(1 <= act["copies"] <= 64, "copies")
        need(3_600_000 <= act["tolerance"] <= 31_536_000_000, "tolerance")
    elif kind == 13:
        act = {"device": read_device(r), "invite": r.id32(), "redemption": r.take(64)}
    elif kind == 14:
        act = {"cut": read_cut(r)}
    elif kind == 15:
        act = {"cut": read_cut(r), "packs": read_packs(r), "young": read_packs(r)}
        need(act["packs"] or act["young"], "released packs")
        need(not set(act["packs"]) & set(act["young"]), "released packs")
    elif kind == 11:
        act = {"commit": r.id32(), "boxes": read_boxes(r), "swarm_boxes": read_boxes(r)}
        previous = r.list(1024, lambda r: (r.id32(), r.take(72)))
        act["previous"] = ascending(previous, key=lambda item: item[0])
    elif kind == 20:
        act = {"terms": read_terms(r.bytes16(948))}
    elif kind == 21:
        act = {"signed": read_signed_terms(r)}
    elif kind == 22:
        act = {"notice": read_notice(r)}
    elif kind == 23:
        act = {"code": r.id32(), "quota": r.u64(), "until": r.u64(), "expires": r.u64()}
    elif kind == 24:
        act = {"peer_id": r.bytes16(64), "kem": r.id32(), "quota": r.u64(), "until": r.u64()}
        act["addresses"] = r.list(16, lambda r: r.bytes16(256))
        act.update(swarm_epoch=r.id32(), swarm_box=r.take(80), code=r.id32(), redemption=r.take(64))
    else:
        raise Refused("act type")
    return kind, act


# Agreements, claims, commands (4.9, 4.10, 14.5)

def peer_key(peer):
    need(len(peer) == 38 and peer[:6] == bytes.fromhex("002408011220"), "peer id")
    return peer[6:]


def read_line(r):
    text = r.bytes16(200).decode("utf-8", "strict")
    bad = set(range(0x20)) | set(range(0x7f, 0xa0)) | {0x2028, 0x2029}
    bad |= set(range(0x202a, 0x202f)) | set(range(0x2066, 0x206a))
    need(not any(ord(letter) in bad for letter in text) and text.strip() == text, "a line of text")
    return text


def read_terms(data):
    r = Reader(data)
    r.start()
    terms = {"folder": r.id32(), "seeder": r.bytes16(64)}
    for name in ("quota", "from", "until", "notice", "audit"):
        terms[name] = r.u64()
    for name in ("place", "organisation", "contact", "member_contact"):
        terms[name] = read_line(r)
    r.done()
    peer_key(terms["seeder"])
    need(terms["quota"] > 0 and (terms["until"] == 0 or terms["until"] > terms["from"]), "terms")
    need(terms["notice"] <= 3660 * 86400000 and 60000 <= terms["audit"] <= 365 * 86400000, "terms")
    terms["hash"] = H(data)
    return terms


def read_signed_terms(r):
    terms = read_terms(r.bytes16(948))
    ed25519_verify(peer_key(terms["seeder"]), b"cobox/v1/agreement" + terms["hash"], r.take(64))
    return terms


def read_notice(r):
    begin = r.at
    r.start()
    notice = {"folder": r.id32(), "seeder": r.bytes16(64), "terms": r.id32(), "at": r.u64()}
    start = r.data[begin:r.at]
    notice["by_seeder"] = r.flag()
    if notice["by_seeder"]:
        ed25519_verify(peer_key(notice["seeder"]), b"cobox/v1/notice" + H(start), r.take(64))
    return notice


def read_paper(data):
    r = Reader(data)
    kind = r.u8()
    need(1 <= kind <= 4, "paper")
    paper = kind, {1: read_signed_terms, 2: read_notice, 3: Reader.id32, 4: Reader.u64}[kind](r)
    r.done()
    need(kind != 2 or paper[1]["by_seeder"], "paper")
    return paper


def read_name(r):
    name = r.bytes16(64).decode("utf-8", "strict")
    need(not any(ord(letter) < 0x20 or 0x7f <= ord(letter) < 0xa0 for letter in name), "name")
    return name


def read_claim(data):
    r = Reader(data)
    r.start()
    claim = {"seeder": r.id32(), "claim": r.id32(), "admin": r.id32(), "recovery": r.id32(), "name": read_name(r)}
    signed = b"cobox/v1/claim" + H(data[:r.at])
    ed25519_verify(claim["claim"], signed, r.take(64))
    ed25519_verify(claim["admin"], signed, r.take(64))
    r.done()
    return claim


def read_order(r):
    kind = r.u8()
    if kind in (1, 2, 3):
        return kind, r.bytes16(1100).decode("ascii", "strict")
    if kind in (4, 12, 13):
        return kind, r.id32()
    if kind == 5:
        return kind, r.id32(), r.u64(), r.u64()
    if kind == 11:
        order = kind, r.id32(), r.u8(), r.u64(), read_name(r)
        need(1 <= order[2] <= 3, "rank")
        return order
    need(6 <= kind <= 10, "order")
    return (kind,)


def read_command(data):
    need(len(data) <= 2048, "command length")
    r = Reader(data)
    r.start()
    command = {"seeder": r.id32(), "admin": r.id32(), "chain": r.take(16), "seq": r.u64()}
    command.update(issued=r.u64(), expires=r.u64(), order=read_order(r))
    signed = b"cobox/v1/command" + H(data[:r.at])
    ed25519_verify(command["admin"], signed, r.take(64))
    r.done()
    return command


def check_seed(code, folder16, address, signature):
    ed25519_verify(code, b"cobox/v1/seed" + H(folder16 + address), signature)


def read_seed_request(data):
    r = Reader(data)
    need(r.u8() == 1, "version")
    folder, code, signature = r.take(16), r.id32(), r.take(64)
    address = r.take(r.left())
    check_seed(code, folder, address, signature)
    return read_address(address)


def check_seeding(record):
    kind, act, folder = record["kind"], record["act"], record["folder"]
    about = {20: "terms", 21: "signed", 22: "notice"}.get(kind)
    need(about is None or act[about]["folder"] == folder, "another folder")
    if kind == 24:
        counted = lambda data: len(data).to_bytes(2, "little") + data
        address = b"\1" + counted(act["peer_id"]) + act["kem"] + len(act["addresses"]).to_bytes(2, "little")
        address += b"".join(counted(found) for found in act["addresses"])
        check_seed(act["code"], folder[:16], address, act["redemption"])


def read_record(data):
    r = Reader(data)
    r.start()
    record = {"folder": r.id32(), "parents": ascending(r.list(64, Reader.id32))}
    record.update(author=r.id32(), issued=r.u64())
    record["kind"], record["act"] = read_act(r)
    unsigned = data[:r.at]
    signature = r.take(64)
    r.done()
    genesis = record["kind"] == 1
    need(genesis == (not record["parents"]) == (record["folder"] == bytes(32)), "parents")
    record["hash"] = H(unsigned)
    ed25519_verify(record["author"], b"cobox/v1/access" + record["hash"], signature)
    if record["kind"] == 13:
        check_redemption(record)
    check_seeding(record)
    return record


# ---------------------------------------------------------------- Packs (5)

def read_directory(r):
    def row(r):
        kind, tag, length = r.u8(), r.id32(), r.u32()
        need(kind <= 2 and 18 <= length <= 262161, "directory row")
        return kind, tag, length

    rows = r.list(4096, row)
    need(rows and sum(length for _, _, length in rows) <= 1 << 24, "directory")
    return rows


def read_footer(data, pack_bytes):
    r = Reader(data)
    r.start()
    offset, length, count = r.u64(), r.u32(), r.u16()
    need(r.take(8) == bytes(8), "reserved")
    r.done()
    need(1 <= count <= 4096 and length == 2 + 37 * count + 40, "directory length")
    need(offset + length <= pack_bytes - 64, "directory outside the pack")
    return offset, length, count


def unzstd(data):
    """A zstd frame (RFC 8878) of raw and run-length blocks, which is what the vectors hold."""
    r = Reader(data)
    need(r.take(4) == b"\x28\xb5\x2f\xfd", "not a zstd frame")
    descriptor = r.u8()
    need(descriptor & 0b1011 == 0, "a dictionary or a reserved bit")
    single = descriptor >> 5 & 1
    if not single:
        r.u8()  # the window, which no block of these kinds needs
    size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    size = r.number(size_bytes) + (256 if size_bytes == 2 else 0) if size_bytes else None
    out, last = b"", False
    while not last:
        header = r.number(3)
        last, kind, length = header & 1 == 1, header >> 1 & 3, header >> 3
        need(len(out) + length <= 262144 or kind > 1, "a chunk that is too long")
        if kind == 2:
            raise Skipped("a zstd block with entropy coding: this reader has none")
        need(kind < 2, "zstd block")
        out += r.take(length) if kind == 0 else r.take(1) * length
    if descriptor & 4:
        r.take(4)
    r.done()
    need(size is None or len(out) == size, "zstd content size")
    need(len(out) > len(data), "compressed and not smaller")
    return out


class Epoch:
    """The keys of one epoch (3.4)."""

    def __init__(self, secret, folder, epoch_id):
        material = secret + folder + epoch_id
        self.secret, self.folder, self.id = secret, folder, epoch_id
        self.k_id, self.k_obj = DK("chunk id", material), DK("chunk object", material)
        self.k_pack, self.k_log = DK("pack", material), DK("log", material)

    def open_chunk(self, kind, tag, sealed):
        aad = b"cobox/v1/chunk" + SUITE + bytes([kind]) + self.folder + self.id
        inner = aead_open(DK("object key", self.k_obj + tag), bytes(12), aad, sealed)
        need(KH(self.k_id, bytes([kind]) + inner) == tag, "the tag does not commit")
        need(inner and inner[0] < 2, "compression flag")
        plain = unzstd(inner[1:]) if inner[0] else inner[1:]
        need(1 <= len(plain) <= 262144, "chunk length")
        return plain

    def open_pack(self, pack):
        need(is_size_class(len(pack)), "not a size class")
        end = SUITE + self.folder + self.id
        footer = unseal(self.k_pack, b"cobox/v1/pack footer" + end, pack[-64:])
        offset, length, count = read_footer(footer, len(pack))
        sealed = pack[offset:offset + length]
        r = Reader(unseal(self.k_pack, b"cobox/v1/pack directory" + end, sealed))
        rows = read_directory(r)
        r.done()
        need(len(rows) == count and sum(row[2] for row in rows) == offset, "directory")
        return rows

    def chunks_of(self, pack):
        at, chunks = 0, {}
        for kind, tag, length in self.open_pack(pack):
            chunks[tag] = self.open_chunk(kind, tag, pack[at:at + length])
            at += length
        return chunks


# ---------------------------------------------------------------- Outboards and proofs (6)

def merge(values, root=False):
    if len(values) == 1:
        return values[0]
    left = left_count(len(values))
    node = parent_node(*(struct.unpack("<8I", merge(half)) for half in (values[:left], values[left:])))
    return node.root() if root else node.value_bytes()


def outboard_of(pack):
    if len(pack) <= SLICE:
        return b""
    return b"".join(tree_node(pack[at:at + SLICE], at // LEAF).value_bytes() for at in range(0, len(pack), SLICE))


def check_outboard(pack_id, size, outboard):
    slices = -(-size // SLICE)
    need(size <= 1 << 24 and len(outboard) == (32 * slices if slices > 1 else 0), "outboard length")
    if slices > 1:
        values = [outboard[at:at + 32] for at in range(0, len(outboard), 32)]
        need(merge(values, root=True) == pack_id, "outboard")


def read_proof(r):
    leaf = r.bytes16(1024)
    count = r.u8()
    need(leaf and count <= 14, "proof")
    return leaf, [r.id32() for _ in range(count)]


def check_proof(pack_id, size, index, leaf, siblings):
    leaves = -(-size // LEAF)
    need(index < leaves and len(leaf) == min(LEAF, size - index * LEAF), "leaf")
    turns, at, count = [], index, leaves
    while count > 1:
        left = left_count(count)
        turns.append(at < left)
        at, count = (at, left) if at < left else (at - left, count - left)
    need(len(turns) == len(siblings), "siblings")
    node = leaf_node(leaf, index, IV, 0)
    for is_left, sibling in zip(reversed(turns), siblings):
        pair = [node.value(), struct.unpack("<8I", sibling)]
        node = parent_node(*(pair if is_left else reversed(pair)))
    need(node.root() == pack_id, "proof")


def read_challenge(r):
    def sample(r):
        pack, size, leaf = r.id32(), r.u64(), r.u64()
        need(is_size_class(size) and leaf < -(-size // LEAF), "sample")
        return pack, size, leaf

    def entry(r):
        log, seq = r.id32(), r.u64()
        need(seq > 0, "entry sample")
        return log, seq

    return r.id32(), r.list(459, sample), r.list(459, entry)


# ---------------------------------------------------------------- Content (7)

def read_extents(r, most):
    count = r.u8()
    need(count <= most, "epochs")
    epochs = [r.id32() for _ in range(count)]
    need(len(set(epochs)) == count, "an epoch twice")
    used = 0

    def extent(r):
        nonlocal used
        kind = r.u8()
        if kind == 0:
            length = r.u64()
            need(length > 0, "an empty hole")
            return length, None
        need(kind == 1, "extent type")
        length, index, tag = r.u32(), r.u8(), r.id32()
        need(1 <= length <= 262144 and index <= used and index < count, "extent")
        used = max(used, index + 1)
        return length, (epochs[index], tag)

    extents = r.list(most, extent)
    need(used == count, "an epoch that is not used")
    need(not any(a[1] is None and b[1] is None for a, b in zip(extents, extents[1:])), "two holes")
    need(sum(length for length, _ in extents) < 1 << 63, "size")
    return extents


def read_content(r):
    kind = r.u8()
    if kind == 0:
        return {"inline": r.bytes16(1024)}
    if kind == 1:
        extents = read_extents(r, 16)
        need(extents, "no extents")
        return {"extents": extents}
    need(kind == 2, "content type")
    content = {"root": (r.id32(), r.id32()), "height": r.u8(), "size": r.u64()}
    need(1 <= content["height"] <= 8 and content["size"] < 1 << 63, "extent tree")
    return content


def read_node(data):
    r = Reader(data)
    need(r.u8() == 1, "version")
    kind = r.u8()
    if kind == 0:
        node = read_extents(r, 128)
    else:
        need(kind == 1, "node kind")
        node = r.list(128, lambda r: (r.u64(), (r.id32(), r.id32())))
        need(all(size > 0 for size, _ in node), "an empty child")
    r.done()
    need(0 < sum(size for size, _ in node) < 1 << 63, "size")
    return kind, node


def file_bytes(content, chunks):
    """The bytes of a file, where chunks maps (epoch, tag) to plaintext."""
    if "inline" in content:
        return content["inline"]

    def chunk(ref):
        need(ref in chunks, "a chunk that no pack holds")
        return chunks[ref]

    def run(extents):
        out = b""
        for length, ref in extents:
            piece = bytes(length) if ref is None else chunk(ref)
            need(len(piece) == length, "extent length")
            out += piece
        return out

    def below(ref, height):
        kind, node = read_node(chunk(ref))
        need(kind == (0 if height == 1 else 1), "height")
        if height == 1:
            return run(node)
        pieces = [(size, below(child, height - 1)) for size, child in node]
        need(all(size == len(piece) for size, piece in pieces), "child size")
        return b"".join(piece for _, piece in pieces)

    if "extents" in content:
        return run(content["extents"])
    out = below(content["root"], content["height"])
    need(len(out) == content["size"], "size")
    return out


# ---------------------------------------------------------------- Ops (8)

def read_name(r):
    name = r.bytes16(255)
    need(name and name not in (b".", b"..") and not set(name) & {0, 0x2F}, "name")
    return name


def read_mode(r):
    mode = r.u32()
    need(mode < 0o10000, "mode")
    return mode


def read_make(r):
    op = {"op": "make", "parent": r.take(16), "name": read_name(r), "kind": r.u8(), "generation": r.u32()}
    need(op["kind"] <= 6, "kind")
    op.update(mode=read_mode(r), mtime=r.i64(), uid=r.u32(), gid=r.u32())
    if op["kind"] == 2:
        op["target"] = r.bytes16(4095)
        need(op["target"] and 0 not in op["target"], "target")
    elif op["kind"] in (5, 6):
        op["rdev"] = r.u32()
    return op


def read_attr(r):
    op = {"op": "attr", "ino": r.take(16)}
    mask = r.u8()
    need(1 <= mask <= 15, "attribute mask")
    for bit, name, read in ((1, "mode", read_mode), (2, "mtime", Reader.i64),
                            (4, "uid", Reader.u32), (8, "gid", Reader.u32)):
        if mask & bit:
            op[name] = read(r)
    return op


def read_xattr(r):
    op = {"op": "xattr", "ino": r.take(16), "key": r.bytes16(255)}
    need(op["key"] and 0 not in op["key"], "xattr name")
    op["value"] = r.bytes16(65535) if r.flag() else None
    return op


def read_op(r):
    kind = r.u8()
    if kind == 1:
        return read_make(r)
    if kind == 2:
        return {"op": "link", "ino": r.take(16), "parent": r.take(16), "name": read_name(r)}
    if kind == 3:
        return {"op": "move", "link": r.take(16), "parent": r.take(16), "name": read_name(r), "dots": r.opids()}
    if kind == 4:
        return {"op": "unlink", "link": r.take(16), "dots": r.opids(), "heads": r.opids(), "last": r.flag()}
    if kind == 5:
        return {"op": "revive", "link": r.take(16)}
    if kind == 6:
        op = {"op": "put", "ino": r.take(16), "parents": r.opids()}
        start = r.at
        op["content"] = read_content(r)
        op["digest"] = DK("content digest", r.data[start:r.at])
        op["mtime"] = r.i64()
        return op
    if kind == 7:
        return read_attr(r)
    if kind == 8:
        return read_xattr(r)
    if kind == 9:
        return {"op": "fork", "ino": r.take(16), "head": r.opid()}
    if kind == 10:
        return {"op": "keep", "ino": r.take(16), "take": r.opid(), "drop": r.opids()}
    if kind == 11:
        return {"op": "ack"}
    need(kind == 12, "op type")
    return {"op": "snap", "checkpoint": r.take(64), "label": r.bytes16(255)}


def read_group(r):
    hlc = r.u64()
    ops = r.list(4096, read_op)
    need(ops and hlc + len(ops) < 1 << 64, "op group")
    return hlc, ops


# ---------------------------------------------------------------- Entries (9)

def read_head(r):
    return r.id32(), r.u64(), r.id32()


def read_entry(data):
    r = Reader(data)
    r.start()
    entry = {"folder": r.id32(), "log": r.id32(), "seq": r.u64(), "prev": r.id32()}
    entry["access_heads"] = ascending(r.list(64, Reader.id32))
    need(entry["access_heads"], "access heads")
    entry["epoch"] = r.id32()
    entry["packs"] = r.list(64, lambda r: (r.id32(), r.u64()))
    start = data[:r.at]
    body_size, body_hash = r.u32(), r.id32()
    header = data[:r.at]
    signature, body = r.take(64), r.take(body_size)
    r.done()
    need(entry["seq"] > 0 and (entry["seq"] == 1) == (entry["prev"] == bytes(32)), "seq")
    need(len({pack for pack, _ in entry["packs"]}) == len(entry["packs"]), "a pack twice")
    need(all(is_size_class(size) for _, size in entry["packs"]), "pack size")
    need(41 <= body_size <= 983040, "body size")
    need(H(body) == body_hash, "body hash")
    entry["hash"] = H(header)
    ed25519_verify(entry["log"], b"cobox/v1/entry" + entry["hash"], signature)
    entry["aad"], entry["body"] = H(start), body
    return entry


def read_body(plain):
    outer = Reader(plain)
    payload = outer.bytes32(983040)
    n = 4 + len(payload)
    need(len(plain) == min(padme(n), max(983000, n)), "padding length")
    need(not any(outer.take(outer.left())), "padding")
    r = Reader(payload)
    body = {"deps": ascending(r.list(1024, read_head), key=lambda dep: dep[0]), "hlc": r.u64()}
    body["groups"] = r.list(16384, read_group)
    for (hlc, ops), (following, _) in zip(body["groups"], body["groups"][1:]):
        need(hlc + len(ops) - 1 < following, "groups out of order")
    body["directories"] = r.list(64, lambda r: read_directory(r) if r.flag() else None)
    body["state_sum"] = r.id32()
    r.done()
    return body


# ---------------------------------------------------------------- Addresses, locator, receipts (11 to 13)

def read_address(data):
    r = Reader(data)
    need(r.u8() == 1, "version")
    address = {"peer_id": r.bytes16(64), "kem": r.id32(), "addresses": r.list(16, lambda r: r.bytes16(256))}
    r.done()
    return address


def read_address_text(text):
    text = text.strip().lower()
    need(text.startswith("cobox-seeder-"), "prefix")
    value, bits, data = 0, 0, bytearray()
    for letter in text.removeprefix("cobox-seeder-"):
        digit = "abcdefghijklmnopqrstuvwxyz234567".find(letter)
        need(digit >= 0, "base32")
        value, bits = value << 5 | digit, bits + 5
        if bits >= 8:
            bits -= 8
            data.append(value >> bits)
            value &= (1 << bits) - 1
    need(value == 0 and bits < 5 and len(data) >= 4, "base32")
    need(H(bytes(data[:-4]))[:4] == bytes(data[-4:]), "check")
    return read_address(bytes(data[:-4]))


BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def bech32m(text):
    """Prefix and bytes of a text (BIP-350)."""
    need(text in (text.lower(), text.upper()), "both cases")
    text = text.lower()
    prefix, found, letters = text.rpartition("1")
    need(found and prefix and len(text) <= 1023 and len(letters) >= 6, "bech32")
    digits = [BECH32.find(letter) for letter in letters]
    need(all(digit >= 0 for digit in digits), "bech32")
    check = 1
    for digit in [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + digits:
        top, check = check >> 25, (check & 0x1ffffff) << 5 ^ digit
        for at, generator in enumerate((0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3)):
            check ^= generator if top >> at & 1 else 0
    need(check == 0x2bc830a3, "checksum")
    value, bits, data = 0, 0, bytearray()
    for digit in digits[:-6]:
        value, bits = value << 5 | digit, bits + 5
        if bits >= 8:
            bits -= 8
            data.append(value >> bits)
            value &= (1 << bits) - 1
    need(value == 0 and bits < 5, "bits that fill the last letter")
    return prefix, bytes(data)


def read_code(text, prefix):
    found, data = bech32m("".join(text.split()))
    need(found == prefix, "a code of another kind")
    r = Reader(data)
    need(r.u8() == 1, "version")

    def short_list(read):
        count = r.u8()
        need(count <= 4, "too many")
        return [read() for _ in range(count)]

    code = {"folder": r.take(16)}
    address = lambda: r.take(r.u8())
    code["hints"] = short_list(lambda: {"peer": r.id32(), "addresses": short_list(address)})
    code["secret"] = r.take(16)
    r.done()
    return code


def case_code(data, case):
    code = read_code(data.decode("ascii", "strict"), case["prefix"])
    if case["accept"]:
        hints = [{"peer": hint["peer"].hex(), "addresses": [address.hex() for address in hint["addresses"]]}
                 for hint in code["hints"]]
        need((code["folder"].hex(), hints) == (case["folder"], case["hints"]), "says something else")
        if case["prefix"] == "cobox":
            need(ed25519_public(DK("invite", code["secret"])).hex() == case["invite"], "another invite")


def case_join_request(data, case):
    r = Reader(data)
    need(r.u8() == 1, "version")
    folder, invite, signature = r.take(16), r.id32(), r.take(64)
    keys, label = r.take(4 * 32), r.take(168)
    r.done()
    ed25519_verify(invite, b"cobox/v1/invite" + H(folder + keys), signature)
    code = read_code(case["code"], "cobox")
    need((folder, invite) == (code["folder"], ed25519_public(DK("invite", code["secret"]))), "another code")
    plain = unseal(DK("invite label", code["secret"]), b"cobox/v1/label" + SUITE + b"\1", label)
    need(plain[1:1 + plain[0]].decode() == case["label"], "label")


def check_session(case):
    """Sessions (14.4): what one side sends under the secret and under its key."""
    part = lambda name: bytes.fromhex(case[name])
    speaker = bytes([case["speaker"]])
    binding = part("opener") + part("responder") + part("opener_nonce") + part("responder_nonce")
    binding += case["session"].to_bytes(4, "little")
    need(part("blinded") == KH(part("swarm"), b"blinded" + binding), "name")
    need(part("proof") == KH(part("swarm"), b"session" + binding + speaker), "proof")
    transcript = b"\1" + part("folder") + binding + speaker + part("key")
    ed25519_verify(part("key"), b"cobox/v1/session" + H(transcript), part("signature"))


def session_as_told(case):
    try:
        check_session(case)
        return case["accept"], "accepted"
    except Refused as error:
        return not case["accept"], f"refused: {error}"


def read_locator(data):
    r = Reader(data)
    r.start()
    locator = {"key": r.id32(), "seq": r.u64(), "sealed": r.bytes32(131112)}
    start = data[:r.at]
    signature = r.take(64)
    r.done()
    plain = len(locator["sealed"]) - 40
    need(plain > 0 and plain % 4096 == 0, "locator length")
    ed25519_verify(locator["key"], b"cobox/v1/locator" + H(start), signature)
    locator["id"] = DK("locator id", locator["key"])
    return locator


def read_folders(plain):
    outer = Reader(plain)
    payload = outer.bytes32(131072)
    need(len(plain) == -(-(4 + len(payload)) // 4096) * 4096, "padding length")
    need(not any(outer.take(outer.left())), "padding")
    r = Reader(payload)
    folders = r.list(64, lambda r: {
        "folder": r.id32(), "index": r.u32(), "name": r.bytes16(255),
        "seeders": r.list(16, lambda r: read_address(r.bytes16(65535)))})
    r.done()
    return folders


def read_receipt(data):
    r = Reader(data)
    r.start()
    receipt = {"folder": r.id32(), "seeder": r.bytes16(64), "nonce": r.id32()}
    receipt["heads"] = ascending(r.list(1024, read_head), key=lambda head: head[0])
    receipt.update(held=r.u64(), lacking=r.u64(), asked=r.u16(), proved=r.u16())
    receipt.update(entries=r.u16(), entries_proved=r.u16(), entries_digest=r.id32(), live=r.id32(), time=r.u64())
    start = data[:r.at]
    signature = r.take(64)
    r.done()
    need(receipt["proved"] <= receipt["asked"] <= 459, "samples")
    need(receipt["entries_proved"] <= receipt["entries"] <= 459, "entries")
    peer = receipt["seeder"]
    need(len(peer) == 38 and peer[:6] == bytes.fromhex("002408011220"), "peer id")
    ed25519_verify(peer[6:], b"cobox/v1/receipt" + H(start), signature)
    return receipt


# ---------------------------------------------------------------- Wire (14)

def read_who(r):
    kind = r.u8()
    need(kind < 2, "who")
    return (r.id32(), r.take(64)) if kind else None


def read_records(r):
    return r.flag(), r.list(4096, lambda r: r.bytes32(1 << 20))


def read_locator_bytes(r):
    need(1 <= r.left() <= 131328, "locator")
    return r.take(r.left())


def read_proofs(r):
    question, first = r.u32(), r.u16()
    proofs = r.list(256, lambda r: read_proof(r) if r.flag() else None)
    need(first + len(proofs) <= 459, "proofs")
    return question, first, proofs


def read_answer(r):
    question, answer = r.u32(), r.u8()
    need(answer <= 3, "answer")
    return question, answer, read_locator_bytes(r) if answer == 3 else None


def read_grant_answer(r):
    folder, answer = r.id32(), r.u8()
    need(answer <= 2, "answer")
    return folder, answer


def some(most):
    def read(r):
        need(0 < r.left() <= most, "length")
        return r.take(r.left())

    return read


def read_rank(r):
    rank = r.u8()
    need(1 <= rank <= 3, "rank")
    return rank


def read_outcome(r):
    outcome = r.u8()
    need(outcome <= 4, "outcome")
    return outcome


def hashes(most):
    return lambda r: r.list(most, Reader.id32)


def read_contact(r):
    return r.id32(), r.id32(), r.u64(), r.list(16, lambda r: r.bytes16(256)), r.take(64)


FRAMES = {  # fields after the session; 1 and 20 to 23 have none
    2: lambda r: (r.id32(), r.id32()),
    3: lambda r: (r.id32(), read_who(r)),
    4: read_who,
    5: lambda r: (),
    6: lambda r: (),
    7: hashes(64),
    8: hashes(64),
    9: read_records,
    10: lambda r: r.list(1024, read_head),
    11: lambda r: (r.id32(), r.u64()),
    12: lambda r: r.take(r.left()),
    13: lambda r: (r.id32(), r.u64()),
    14: lambda r: (r.u64(), r.u64(), r.flag()),
    15: hashes(4096),
    16: lambda r: (r.u32(), read_challenge(r)),
    17: read_proofs,
    18: lambda r: (r.u32(), r.take(r.left())),
    19: read_records,
    24: lambda r: (r.id32(), r.id32(), r.take(64)),
    25: lambda r: (r.take(64), r.take(409)),
    26: lambda r: r.take(409),
    27: lambda r: (),
    33: lambda r: r.take(r.left()),
    40: lambda r: r.list(64, read_contact),
    55: some(1204),
    60: some(4342),
    61: some(4342),
}
WITHOUT_SESSION = {
    1: Reader.id32,
    20: read_grant_answer,
    21: lambda r: (r.u32(), read_locator_bytes(r)),
    22: lambda r: (r.u32(), r.id32()),
    23: read_answer,
    56: lambda r: (r.u32(), some(512)(r)),
    57: lambda r: (r.u32(), r.flag() and (r.take(16), read_rank(r), r.u64())),
    58: lambda r: (r.u32(), some(2048)(r)),
    59: lambda r: (r.u32(), read_outcome(r), r.bytes32(262144).decode("utf-8", "strict")),
}


def read_frame(data):
    need(len(data) <= 1 << 20, "frame length")
    r = Reader(data)
    kind = r.u8()
    if kind in WITHOUT_SESSION:
        frame = kind, WITHOUT_SESSION[kind](r)
    else:
        need(kind in FRAMES, "frame type")
        frame = kind, r.u32(), FRAMES[kind](r)
    r.done()
    return frame


def read_ask(r):
    session, pack, size, outboard, first, count = r.u32(), r.id32(), r.u64(), r.flag(), r.u16(), r.u16()
    need(is_size_class(size) and count > 0 and first + count <= -(-size // SLICE), "ask")
    return session, pack, size, outboard, first, count


def read_slices(r):
    first = r.u16()
    need(r.left() > 0, "slices")
    return first, r.take(r.left())


BULK = {1: read_ask, 2: lambda r: r.take(r.left()), 3: read_slices, 4: lambda r: (), 5: lambda r: ()}


def read_bulk(data):
    need(len(data) <= 4 * SLICE + 7, "frame length")
    r = Reader(data)
    kind = r.u8()
    need(kind in BULK, "frame type")
    frame = kind, r.u32(), BULK[kind](r)
    r.done()
    return frame


# ---------------------------------------------------------------- Key slots (15.3)

def read_slots(data):
    def slot(r):
        kind = r.u8()
        need(kind in (1, 2), "slot kind")
        if kind == 1:
            salt, memory, passes = r.take(16), r.u32(), r.u32()
            need(8 <= memory <= 1 << 20 and 1 <= passes <= 16, "slot cost")
        return kind, r.take(72)

    r = Reader(data)
    r.start()
    slots = r.list(16, slot)
    r.done()
    need(slots, "no slots")
    return slots


# ---------------------------------------------------------------- Words and the story (3)

def secret_of(words):
    wordlist = (HERE / "bip39-english.txt").read_text().split()
    words = words.lower().split()
    need(len(words) == 24 and all(word in wordlist for word in words), "words")
    bits = 0
    for word in words:
        bits = bits << 11 | wordlist.index(word)
    entropy = (bits >> 8).to_bytes(32, "big")
    need(bits & 255 == hashlib.sha256(entropy).digest()[0], "checksum of the words")
    return entropy


def open_label(e0, purpose, sealed):
    plain = unseal(DK("label", e0), b"cobox/v1/label" + SUITE + bytes([purpose]), sealed)
    need(len(plain) == 128 and plain[0] <= 127 and not any(plain[1 + plain[0]:]), "label")
    return plain[1:1 + plain[0]]


def recovery_keys(secret, index):
    material = secret + struct.pack("<I", index)
    member = ed25519_public(DK("recovery sign", material))
    return (member, *derive_key_pair(DK("recovery kem", material)))


def open_locator(secret, data):
    locator = read_locator(data)
    need(locator["key"] == ed25519_public(DK("locator sign", secret)), "not this member's locator")
    aad = b"cobox/v1/locator" + SUITE + locator["key"] + struct.pack("<Q", locator["seq"])
    return locator, read_folders(unseal(DK("locator seal", secret), aad, locator["sealed"]))


def open_epochs(records, folder, kem_secret, kem_public):
    """Opens each NewEpoch boxed to the recovery key: 3.4, 3.6, 4.6."""
    epochs, first = {}, None
    for record in records:
        if record["kind"] == 11 and record["parents"] == [folder] and not record["act"]["previous"]:
            first = record["hash"]
        box = record["act"].get("boxes", {}).get(kem_public) if record["kind"] == 11 else None
        if box is None:
            continue
        commit = record["act"]["commit"]
        secret = hpke_open(kem_secret, b"cobox/v1/epoch box" + folder + kem_public, commit, box)
        need(DK("epoch commit", secret) == commit, "the epoch's commit")
        epochs[record["hash"]] = Epoch(secret, folder, record["hash"])
        for old, wrapped in record["act"]["previous"]:
            unwrapped = unseal(DK("epoch wrap", secret + folder), old, wrapped)
            epochs.setdefault(old, Epoch(unwrapped, folder, old))
    need(first in epochs, "no box leads to the folder's first epoch")
    return epochs, epochs[first].secret


def open_records(datas, folder, member):
    records, known = [], set()
    for data in datas:
        record = read_record(data)
        need(set(record["parents"]) <= known, "a parent that is missing")
        need(record["kind"] == 1 or record["folder"] == folder, "a record of another folder")
        known.add(record["hash"])
        records.append(record)
    genesis = records[0]
    need(genesis["kind"] == 1 and genesis["hash"] == folder, "the genesis is not the folder's")
    need(genesis["author"] == genesis["act"]["device"]["log"], "the genesis is not its device's")
    need(genesis["act"]["device"]["role"] == 3, "the founder is no admin")
    need(genesis["act"]["device"]["member"] == member, "the words are not the founder's")
    return records


def open_entries(datas, folder, epochs, devices):
    """The bodies of all entries, in order, with the entry they came in."""
    heads, opened = {}, []
    for data in datas:
        entry = read_entry(data)
        need(entry["folder"] == folder and entry["log"] in devices, "an entry of a stranger")
        seq, prev = heads.get(entry["log"], (0, bytes(32)))
        need(entry["seq"] == seq + 1 and entry["prev"] == prev, "the chain is broken")
        heads[entry["log"]] = entry["seq"], entry["hash"]
        body = read_body(unseal(epochs[entry["epoch"]].k_log, entry["aad"], entry["body"]))
        need(len(body["directories"]) == len(entry["packs"]), "a directory per pack")
        opened.append((entry, body))
    return opened


def open_packs(datas, opened, epochs):
    """All chunks, by (epoch, tag); each pack is one that an entry names, with the same directory."""
    named = {pack: (entry["epoch"], size, rows) for entry, body in opened
             for (pack, size), rows in zip(entry["packs"], body["directories"]) if rows is not None}
    chunks = {}
    for pack in datas:
        pack_id = H(pack)
        need(pack_id in named, "a pack that no entry names")
        epoch_id, size, rows = named[pack_id]
        need(size == len(pack), "pack size")
        check_outboard(pack_id, size, outboard_of(pack))
        epoch = epochs[epoch_id]
        need(epoch.open_pack(pack) == rows, "the entry's directory is not the pack's")
        for tag, plain in epoch.chunks_of(pack).items():
            chunks[epoch_id, tag] = plain
    return chunks


def name_key(name):
    try:
        return unicodedata.normalize("NFC", name.decode()).encode()
    except UnicodeDecodeError:
        return name


def ino_of(op):
    material = op["parent"] + bytes([op["kind"]]) + struct.pack("<I", op["generation"]) + name_key(op["name"])
    return DK("ino", material)[:16]


def files_of(opened, chunks):
    """Content by the name a file was made with: the last Put of each inode (8.3, 10.2)."""
    names, files = {}, {}
    for _, body in opened:
        for _, ops in body["groups"]:
            for op in ops:
                if op["op"] == "make":
                    names[ino_of(op)] = op
                    if op["kind"] == 0:
                        files[op["name"]] = b""
                elif op["op"] == "put":
                    need(op["ino"] in names, "a Put to an inode that nobody made")
                    files[names[op["ino"]]["name"]] = file_bytes(op["content"], chunks)
    return files


def open_story(story):
    """From the words, and bytes that a seeder holds, to the files."""
    take = lambda name: [bytes.fromhex(item) for item in story[name]]
    secret = secret_of(story["words"])
    locator, folders = open_locator(secret, bytes.fromhex(story["locator"]))
    need(len(folders) == 1, "one folder")
    folder, index = folders[0]["folder"], folders[0]["index"]
    member, kem_secret, kem_public = recovery_keys(secret, index)
    records = open_records(take("records"), folder, member)
    devices = {record["act"]["device"]["log"] for record in records if record["kind"] in (1, 2)}
    epochs, e0 = open_epochs(records, folder, kem_secret, kem_public)
    opened = open_entries(take("entries"), folder, epochs, devices)
    chunks = open_packs(take("packs"), opened, epochs)
    genesis = records[0]["act"]
    return {
        "locator_id": locator["id"].hex(),
        "folder_id": folder.hex(),
        "folder_name": open_label(e0, 0, genesis["name"]).decode(),
        "device_label": open_label(e0, 1, genesis["device"]["label"]).decode(),
        "files": {name.decode(): data.hex() for name, data in files_of(opened, chunks).items()},
    }


# ---------------------------------------------------------------- Primitives against their own vectors

def pattern(length):
    return bytes(at % 251 for at in range(length))


def check_primitives():
    x = bytes.fromhex
    blake = {  # BLAKE3's test_vectors.json: length, hash, keyed_hash, derive_key
        0: ("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
            "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"),
        1025: ("d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444", None, None),
    }
    for length, (plain, keyed, derived) in blake.items():
        yield f"blake3 of {length} bytes", H(pattern(length)) == x(plain)
        if keyed:
            yield "keyed blake3", KH(b"whats the Elvish word for friend", pattern(length)) == x(keyed)
            context = tree_node(b"BLAKE3 2019-12-27 16:29:52 test vectors context", 0, IV, CONTEXT).root()
            out = tree_node(pattern(length), 0, struct.unpack("<8I", context), MATERIAL).root()
            yield "blake3 derive_key", out == x(derived)
    sunscreen = (b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
                 b"future, sunscreen would be it.")
    yield "chacha20-poly1305 (RFC 8439, 2.8.2)", sunscreen == aead_open(
        x("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"), x("070000004041424344454647"),
        x("50515253c0c1c2c3c4c5c6c7"),
        x("d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
          "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
          "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"))
    yield "xchacha20-poly1305 (draft-irtf-cfrg-xchacha-03, A.3.1)", sunscreen == unseal(
        x("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"), x("50515253c0c1c2c3c4c5c6c7"),
        x("404142434445464748494a4b4c4d4e4f5051525354555657"
          "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
          "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
          "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"))
    yield "x25519 (RFC 7748, 5.2)", x25519(
        x("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
        x("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")) == x(
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    # RFC 9180, A.2.1: the recipient's ikm, and the first encryption of the base mode.
    secret, public = derive_key_pair(x("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df"))
    yield "hpke DeriveKeyPair (RFC 9180, A.2.1)", public == x(
        "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
    yield "hpke base mode (RFC 9180, A.2.1)", hpke_open(
        secret, x("4f6465206f6e2061204772656369616e2055726e"), x("436f756e742d30"),
        x("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
          "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28")
    ) == b"Beauty is truth, truth beauty"
    seed = x("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = x("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    yield "ed25519 public key (RFC 8032, 7.1)", ed25519_public(seed) == public
    signature = x("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
                  "d25bf5f0595bbe24655141438e7a100b")
    ed25519_verify(public, b"", signature)
    yield "ed25519 (RFC 8032, 7.1)", True
    try:
        ed25519_verify(public, b"x", signature)
        yield "ed25519 refuses", False
    except Refused:
        yield "ed25519 refuses", True
    yield "words of zero entropy", secret_of("abandon " * 23 + "art") == bytes(32)
    yield "padme", [padme(n) for n in (0, 1, 9, 4097, 100000)] == [0, 1, 10, 4352, 100352]


# ---------------------------------------------------------------- Vector files (17)

def whole(read):
    def check(data, _):
        r = Reader(data)
        result = read(r)
        r.done()
        return result

    return check


def case_outboard(data, case):
    check_outboard(bytes.fromhex(case["pack"]), case["size"], data)


def case_proof(data, case):
    leaf, siblings = whole(read_proof)(data, case)
    check_proof(bytes.fromhex(case["pack"]), case["size"], case["leaf"], leaf, siblings)


def case_text(read):
    return lambda data, _: read(data.decode("ascii", "strict"))


LAYOUTS = {
    "record": lambda data, _: read_record(data),
    "entry": lambda data, _: read_entry(data),
    "body": lambda data, _: read_body(data),
    "group": whole(read_group),
    "content": whole(read_content),
    "node": lambda data, _: read_node(data),
    "directory": whole(read_directory),
    "footer": lambda data, case: read_footer(data, case["size"]),
    "outboard": case_outboard,
    "proof": case_proof,
    "challenge": whole(read_challenge),
    "locator": lambda data, _: read_locator(data),
    "folders": lambda data, _: read_folders(data),
    "address": lambda data, _: read_address(data),
    "address text": case_text(read_address_text),
    "words": case_text(secret_of),
    "receipt": lambda data, _: read_receipt(data),
    "frame": lambda data, _: read_frame(data),
    "bulk frame": lambda data, _: read_bulk(data),
    "slots": lambda data, _: read_slots(data),
    "paper": lambda data, _: read_paper(data),
    "claim": lambda data, _: read_claim(data),
    "command": lambda data, _: read_command(data),
    "invite code": case_code,
    "join request": case_join_request,
    "seed request": lambda data, _: read_seed_request(data),
}


def check_layout(layout, case):
    data = bytes.fromhex(case["hex"])
    try:
        LAYOUTS[layout](data, case)
        accepted, why = True, "accepted"
    except (Refused, UnicodeDecodeError) as error:
        accepted, why = False, f"refused: {error}"
    return accepted == case["accept"], why


def derive(case):
    """Every derivation of section 3 and 10 by its purpose."""
    return DK(case["purpose"], bytes.fromhex(case["material"])).hex() == case["key"]


def check_story(story):
    """Yields a result for what the words open, and one for each way to break it."""
    found = open_story(story)
    for name, value in story["expect"].items():
        yield name, found[name] == value, f"{found[name]!r:.80}"
    for break_ in story.get("broken", []):
        changed = {**story, **break_["change"]}
        try:
            open_story(changed)
            yield break_["name"], False, "accepted"
        except Refused as error:
            yield break_["name"], True, f"refused: {error}"


def check_file(path):
    vectors = json.loads(path.read_text())
    if vectors["kind"] == "layout":
        for case in vectors["cases"]:
            yield (case["name"], *check_layout(vectors["layout"], case))
    elif vectors["kind"] == "derive":
        for case in vectors["cases"]:
            yield case["name"], derive(case), case["purpose"]
    elif vectors["kind"] == "session":
        for case in vectors["cases"]:
            yield (case["name"], *session_as_told(case))
    elif vectors["kind"] == "story":
        yield from check_story(vectors)
    else:
        yield "kind", False, f"{vectors['kind']!r} is unknown"


def main(paths):
    passed, failed, skipped = 0, 0, 0
    results = [("primitives", ((name, right, "") for name, right in check_primitives()))]
    results += [(path.name, check_file(path)) for path in paths]
    for name, cases in results:
        try:
            for case, right, why in cases:
                passed, failed = passed + right, failed + (not right)
                if not right:
                    print(f"FAILED {name}: {case}: {why}")
        except Skipped as error:
            skipped += 1
            print(f"skipped {name}: {error}")
        except (Refused, KeyError, ValueError) as error:
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
    note = f" ({skipped} skipped)" if skipped else ""
    print(f"{passed} passed, {failed} failed{note}")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    named = [Path(name) for name in sys.argv[1:]]
    sys.exit(main(named or sorted(HERE.glob("*.json"))))
