package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// fileSuffix makes the name of a secret's variable that of the one that names a file, as images of databases have it:
// environments are shown by docker inspect, files of Docker's secrets are not.
const fileSuffix = "_FILE"

// withSecrets returns the variables with the secrets that are in files. The error has a line for each that cannot be had.
func withSecrets(known map[string]field, vars map[string]string) (map[string]string, error) {
	vars = maps.Clone(vars)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(known)) {
		file := vars[key+fileSuffix]
		if !known[key].secret || file == "" {
			continue
		}
		if vars[key] != "" {
			errs = append(errs, fmt.Errorf("%s and %s%s: only one of them is allowed", key, key, fileSuffix))
			continue
		}
		secret, err := os.ReadFile(file)
		if err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) {
				err = pe.Err // the path is in the line already
			}
			errs = append(errs, fmt.Errorf("%s%s=%s: %w: want a file that holds the secret, such as /run/secrets/NAME", key, fileSuffix, Quote(file), err))
			continue
		}
		// Editors and echo end a file with a newline, which nobody means.
		vars[key] = strings.TrimSuffix(strings.TrimSuffix(string(secret), "\n"), "\r")
		if vars[key] == "" {
			errs = append(errs, fmt.Errorf("%s%s=%s: the file is empty", key, fileSuffix, Quote(file)))
		}
	}
	return vars, errors.Join(errs...)
}
