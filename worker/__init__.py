"""The arq worker: fetches documents and sends webhooks."""
