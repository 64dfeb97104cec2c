package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// programs are the packages that the bench builds and runs. The go.mod of this module pins their versions.
var programs = []string{
	"example.com/websocket/examples/cluster",
	"example.com/websocket/examples/chat",
	"github.com/nats-io/nats-server/v2",
}

// A bench is a folder with the programs, and the processes that run in it.
type bench struct {
	dir       string
	processes []*process
}

// A process is a node or a NATS server.
type process struct {
	*exec.Cmd
	url string
	log string // the name of a file
}

func newBench(ctx context.Context) (*bench, error) {
	dir, err := os.MkdirTemp("", "load-*")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir}
	out, err := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + string(filepath.Separator)}, programs...)...).CombinedOutput()
	if err != nil {
		b.close()
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return b, nil
}

// stop kills all processes.
func (b *bench) stop() {
	for _, p := range b.processes {
		p.kill()
	}
	b.processes = nil
}

func (b *bench) close() {
	b.stop()
	os.RemoveAll(b.dir)
}

// start starts a program that logs to a file of its own.
func (b *bench) start(program string, args ...string) (p *process, stdout io.Reader, err error) {
	log, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("%s-%d.log", program, len(b.processes))))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	p = &process{Cmd: exec.Command(filepath.Join(b.dir, program), args...), log: log.Name()}
	p.Stderr = log
	if stdout, err = p.StdoutPipe(); err == nil {
		err = p.Start()
	}
	if err == nil {
		b.processes = append(b.processes, p)
	}
	return p, stdout, err
}

var pageURL = regexp.MustCompile(`open (http://\S+)`)

// startNode starts examples/cluster or examples/chat and waits until it prints the URL of its page.
func (b *bench) startNode(program string, args ...string) (*process, error) {
	p, stdout, err := b.start(program, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if m := pageURL.FindStringSubmatch(lines.Text()); m != nil {
			p.url = m[1]
			return p, nil
		}
	}
	log, _ := os.ReadFile(p.log)
	return nil, fmt.Errorf("%s ended before it served its page:\n%s", program, log)
}

// startNATS starts a cluster of three NATS servers. It does not wait for them: the nodes do.
func (b *bench) startNATS() (servers []*process, err error) {
	ports, err := freePorts(2 * size)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, port := range ports[:size] {
		routes = append(routes, "nats://127.0.0.1:"+port)
	}
	for i := range size {
		p, _, err := b.start("nats-server", "-a", "127.0.0.1", "-p", ports[size+i], "-n", serverName(i),
			"-js", "-sd", filepath.Join(b.dir, serverName(i)),
			"-cluster_name", "chat", "-cluster", routes[i], "-routes", strings.Join(routes, ","))
		if err != nil {
			return nil, err
		}
		p.url = "nats://127.0.0.1:" + ports[size+i]
		servers = append(servers, p)
	}
	return servers, nil
}

func serverName(i int) string { return "nats-" + strconv.Itoa(i) }

// freePorts returns free ports.
func freePorts(n int) (ports []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

// kill ends p by SIGKILL.
func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

// cpu returns the CPU time that a process has used; 0 on a system without /proc.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, fields, _ := strings.Cut(string(b), ") ") // the name in parentheses comes second
	f := strings.Fields(fields)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100 // the unit is 1/100 s on Linux
}
