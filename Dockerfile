# The image holds one static binary. It serves as a debug container as well:
#   kubectl debug node/NODE -it --profile=sysadmin --image=waymark -- /waymark trace tcp any 10.0.0.1:5000
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /waymark ./cmd/waymark

FROM scratch
COPY --from=build /waymark /waymark
ENTRYPOINT ["/waymark"]
CMD ["help"]
