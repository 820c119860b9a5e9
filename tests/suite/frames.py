"""Raw frames for the tests: no Rust crate without unsafe code sends them.

frames.py send INTERFACE          sends each line of standard input, a frame in hexadecimal
frames.py sniff INTERFACE [PORT…] STOP
                                  prints the marks in the frames that come in, but for datagrams of UDP
                                  to these ports, until the file STOP exists
frames.py serve ADDRESS PORT STOP prints the marks in the datagrams that a socket gets, until then
A mark is `mark:` with a number and `;`.
"""
import os
import re
import socket
import sys

what, where = sys.argv[1:3]
if what == "send":
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((where, 0))
    for line in sys.stdin:
        out.send(bytes.fromhex(line))
    sys.exit()
if what == "sniff":
    seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    seen.bind((where, 0))
else:
    seen = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    seen.bind((where, int(sys.argv[3])))
seen.settimeout(0.2)
expected = {}  # by the identification of IP, which all fragments of a datagram have
print("ready", flush=True)
while not os.path.exists(sys.argv[-1]):
    try:
        data, sender = seen.recvfrom(65535)
    except socket.timeout:
        continue
    if what == "sniff" and sender[2] == socket.PACKET_OUTGOING:
        continue
    if what == "sniff" and data[36:38] == b"\x12\xb5" and data[42:46] == b"\x08\0\0\0":
        continue  # a tunnel's
    if what == "sniff" and data[12:14] == b"\x08\0" and data[23:24] == b"\x11":
        if int.from_bytes(data[20:22], "big") & 0x1FFF == 0:
            port = str(int.from_bytes(data[36:38], "big"))
            expected[data[18:20]] = port in sys.argv[3:-1]
        if expected.get(data[18:20]):
            continue
    for mark in re.findall(rb"mark:(\d+);", data):
        print(mark.decode(), flush=True)
