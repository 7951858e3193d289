"""Sends UDP packets with any source address, as root of the guest.

Each packet of the JSON list, {"source", "address", "port", "text"}, goes twice:
as an Ethernet frame, which no route or address of the guest's kernel can stop
(packet(7)), and through a raw IP socket (raw(7)). The text says which it was.
"""

import json
import socket
import struct
import sys

INTERFACE = "eth0"
ETHERNET_IPV4 = b"\x08\x00"
SOURCE_PORT = 40000


def ip_checksum(header):
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def make_packet(packet, kind):
    payload = f"{kind}: {packet['text']}".encode()
    # A checksum of 0 means that there is none (RFC 768).
    udp = struct.pack("!4H", SOURCE_PORT, packet["port"], 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(packet["source"]) + socket.inet_aton(packet["address"])
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP)
    checksum = ip_checksum(start + b"\0\0" + addresses)
    return start + struct.pack("!H", checksum) + addresses + udp


def gateway_mac():
    with open("/proc/net/arp") as table:
        entries = [line.split() for line in table.readlines()[1:]]
    return next(mac for _, _, _, mac, _, device in entries if device == INTERFACE)


def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


with open(f"/sys/class/net/{INTERFACE}/address") as address:
    own_mac = address.read().strip()
head = mac_bytes(gateway_mac()) + mac_bytes(own_mac) + ETHERNET_IPV4

frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind((INTERFACE, 0))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
refused = 0
for packet in json.loads(sys.argv[1]):
    frames.send(head + make_packet(packet, "frame"))
    try:
        raw.sendto(make_packet(packet, "socket"), (packet["address"], 0))
    except OSError:
        # The guest's own kernel refuses some packets; the frame was sent nevertheless.
        refused += 1
print(refused)
