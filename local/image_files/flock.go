// A part of the command flock: Debian's busybox lacks the applet, and the official image's busybox has it.
package main

import (
	"flag"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func main() {
	shared := flag.Bool("s", false, "shared lock")
	exclusive := flag.Bool("x", false, "exclusive lock, the default")
	now := flag.Bool("n", false, "fail instead of waiting")
	unlock := flag.Bool("u", false, "unlock")
	flag.Parse()
	how := syscall.LOCK_EX
	switch {
	case *unlock:
		how = syscall.LOCK_UN
	case *shared && !*exclusive:
		how = syscall.LOCK_SH
	}
	if *now {
		how |= syscall.LOCK_NB
	}
	number, err := strconv.Atoi(flag.Arg(0))
	if flag.NArg() > 1 {
		number, err = syscall.Open(flag.Arg(0), syscall.O_RDONLY|syscall.O_CREAT, 0o666)
	}
	if err != nil || syscall.Flock(number, how) != nil {
		os.Exit(1)
	}
	if flag.NArg() > 1 {
		command := exec.Command(flag.Arg(1), flag.Args()[2:]...)
		command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
		if command.Run() != nil {
			os.Exit(1)
		}
	}
}
