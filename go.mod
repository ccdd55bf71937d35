module github.com/rekeyhq/rekey

go 1.26

require (
	github.com/aws/aws-sdk-go-v2 v1.47.7
	github.com/jackc/pgx/v5 v5.12.0
	github.com/xdg-go/stringprep v1.0.4
	golang.org/x/text v0.41.0
)

require (
	github.com/aws/smithy-go v1.28.8 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
)
