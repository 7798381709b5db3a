// What the enclave has of its host: a socket to listen at, and the Nitro Secure Module.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	afVsock     = 40         // linux/socket.h
	anyCid      = 0xffffffff // linux/vm_sockets.h: VMADDR_CID_ANY
	nsmIoctl    = 0xc0200a00 // linux/nsm.h
	responseMax = 0x3000
)

// The package net knows no vsock, so a connection is a file in the poller, and the listener a number.
type vsockListener int
type vsockAddr struct{}
type vsockConn struct{ *os.File }

func (vsockAddr) Network() string           { return "vsock" }
func (vsockAddr) String() string            { return "vsock" }
func (vsockConn) LocalAddr() net.Addr       { return vsockAddr{} }
func (vsockConn) RemoteAddr() net.Addr      { return vsockAddr{} }
func (vsockListener) Addr() net.Addr        { return vsockAddr{} }
func (listener vsockListener) Close() error { return syscall.Close(int(listener)) }

func (listener vsockListener) Accept() (net.Conn, error) {
	for {
		flags := uintptr(syscall.SOCK_CLOEXEC | syscall.SOCK_NONBLOCK)
		fd, _, errno := syscall.Syscall6(syscall.SYS_ACCEPT4, uintptr(listener), 0, 0, flags, 0, 0)
		switch errno {
		case 0:
			return vsockConn{os.NewFile(fd, "vsock")}, nil
		case syscall.EINTR, syscall.ECONNABORTED:
		default:
			return nil, errno
		}
	}
}

func listen(kind, place string) (net.Listener, error) {
	if kind == "unix" {
		return net.Listen("unix", place)
	}
	port, err := strconv.ParseUint(place, 10, 32)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(afVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	address := struct { // struct sockaddr_vm
		family, reserved uint16
		port, cid        uint32
		zero             [4]byte
	}{family: afVsock, port: uint32(port), cid: anyCid}
	if _, _, errno := syscall.Syscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address)); errno != 0 {
		return nil, errno
	}
	return vsockListener(fd), syscall.Listen(fd, 128)
}

// attest returns a document over userData (48 bytes) and nonce (32 bytes). Requests and responses are CBOR.
func attest(nsm string, userData, nonce []byte) ([]byte, error) {
	request := fmt.Sprintf("\xa1kAttestation\xa3iuser_dataX\x30%senonceX\x20%sjpublic_key\xf6", userData, nonce)
	ask := askSocket
	if strings.HasPrefix(nsm, "/dev/") {
		ask = askDevice
	}
	response, err := ask(nsm, []byte(request))
	if err != nil {
		return nil, err
	}
	head := []byte("\xa1kAttestation\xa1hdocumentY") // {"Attestation": {"document": bytes of a u16 length
	if !bytes.HasPrefix(response, head) || len(response) < len(head)+2 {
		return nil, errors.New("the NSM gave no document")
	}
	rest := response[len(head)+2:]
	size := int(binary.BigEndian.Uint16(response[len(head):]))
	if size > len(rest) {
		return nil, errors.New("the NSM's document is cut short")
	}
	return rest[:size], nil
}

func askDevice(path string, request []byte) ([]byte, error) {
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	response := make([]byte, responseMax)
	raw := struct{ request, requestSize, response, responseSize uintptr }{ // struct nsm_raw
		uintptr(unsafe.Pointer(&request[0])), uintptr(len(request)),
		uintptr(unsafe.Pointer(&response[0])), uintptr(len(response)),
	}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, device.Fd(), nsmIoctl, uintptr(unsafe.Pointer(&raw)))
	runtime.KeepAlive(request)
	if errno != 0 {
		return nil, errno
	}
	return response[:raw.responseSize], nil
}

// The software host's NSM is a socket: a length (u32, big-endian) before each message.
func askSocket(path string, request []byte) ([]byte, error) {
	stream, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var size uint32
	if err := binary.Write(stream, binary.BigEndian, uint32(len(request))); err != nil {
		return nil, err
	}
	if _, err := stream.Write(request); err != nil {
		return nil, err
	}
	if err := binary.Read(stream, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	if size > responseMax {
		return nil, errors.New("the NSM's answer is too long")
	}
	response := make([]byte, size)
	_, err = io.ReadFull(stream, response)
	return response, err
}
