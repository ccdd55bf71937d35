package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// functionsUsage describes the --functions flag, which two commands have.
const functionsUsage = "the `DIR` with NAME/bootstrap for each function (default: where rekey is)"

// functionsDir returns dir or, if that is empty, the folder make build puts the
// functions in: that of this program.
func functionsDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell where this program is: %v; name the folder with --functions", err)
	}
	return filepath.Dir(program), nil
}

// findFunction returns the name and the bootstrap file of a function given as
// its name or as the path of that file.
func findFunction(function, dir string) (name, bootstrap string, err error) {
	if strings.ContainsRune(function, filepath.Separator) {
		bootstrap, err = filepath.Abs(function)
		if err != nil {
			return "", "", err
		}
		// make build writes build/NAME/bootstrap.
		name = filepath.Base(filepath.Dir(bootstrap))
	} else {
		dir, err = functionsDir(dir)
		if err != nil {
			return "", "", err
		}
		name, bootstrap = function, filepath.Join(dir, function, "bootstrap")
	}
	switch info, err := os.Stat(bootstrap); {
	case errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("there is no function at %s; run `make build`", bootstrap)
	case err != nil:
		return "", "", err
	case !info.Mode().IsRegular():
		return "", "", fmt.Errorf("%s is not a bootstrap file; name the file itself", bootstrap)
	}
	return name, bootstrap, nil
}

// callersVariables returns those variables of this process that set up a
// function of rekey's, whatever AWS it talks to. SSL_CERT_FILE and SSL_CERT_DIR
// are not among them because locallambda hands them on to every function.
func callersVariables() []string {
	return variables(func(name string) bool {
		return name == "PASSWORD_LENGTH" || strings.HasPrefix(name, "EXCLUDE_") || strings.HasPrefix(name, "REKEY_")
	})
}

// callersAWS returns those variables of this process that tell the AWS SDK
// where AWS is and who is calling. HOME is where profiles are kept.
func callersAWS() []string {
	return variables(func(name string) bool {
		return name == "HOME" || strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "AWS_LAMBDA_")
	})
}

func variables(wanted func(name string) bool) []string {
	var found []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); wanted(name) {
			found = append(found, v)
		}
	}
	return found
}
