"""The dashboard's texts in Brazilian Portuguese, by their English form; `{}` is a value."""

PORTUGUESE = {
    # Everywhere.
    "Skip to the content": "Ir para o conteúdo",
    "Main": "Principal",
    "Overview": "Visão geral",
    "Jobs": "Tarefas",
    "Failed work": "Falhas",
    "Webhooks": "Webhooks",
    "Endpoints": "Endpoints",
    "Submit": "Solicitar",
    "Sign in": "Entrar",
    "Sign out": "Sair",
    "seen by {}": "visto por {}",
    "To the overview": "Para a visão geral",
    "By this id we find it in our log: {}": "Por este id nós o encontramos em nosso registro: {}",
    "Search": "Buscar",
    "any": "qualquer",
    "Actions": "Ações",
    # States, outcomes and priorities.
    "pending": "na fila",
    "processing": "em andamento",
    "completed": "concluído",
    "partial": "parcial",
    "failed": "falhou",
    "cancelled": "cancelado",
    "skipped": "fora do filtro",
    "available": "disponível",
    "delivered": "entregue",
    "dead": "desistiu",
    "created": "criada",
    "joined": "unida a uma em andamento",
    "cached": "já estava tudo aqui",
    "high": "alta",
    "normal": "normal",
    "low": "baixa",
    "by_hand": "à mão",
    "gone": "respondeu que não existe mais",
    "failing": "só falhou por dias",
    # Entrance.
    "Give an API key: what it may see, you will see. It is kept by this page for twelve hours at most.": (
        "Informe uma chave de API: você verá o que ela pode ver. Esta página a guarda por até doze horas."
    ),
    "API key": "Chave de API",
    "No live key that may look is like this.": "Nenhuma chave válida com permissão de leitura é assim.",
    # Overview.
    "Look at the jobs of": "Ver as tarefas de",
    "Look": "Ver",
    "The figures are those of all clients.": "Os números são de todos os clientes.",
    "The figures are yours alone; the portal is everybody's.": (
        "Os números são só seus; o portal é de todos."
    ),
    "No worker has swept for a while: none lives, or none can work.": (
        "Nenhum executor deu sinal há algum tempo: não há nenhum, ou nenhum consegue trabalhar."
    ),
    "Jobs that could run have waited long for a worker.": (
        "Tarefas que poderiam rodar esperam há muito por um executor."
    ),
    "The oldest of them has waited for {}.": "A mais antiga delas espera há {}.",
    "The canary did not come through: {}": "O canário não passou: {}",
    "Documents a minute": "Documentos por minuto",
    "Documents of the jobs that ended, minute by minute over the last hour; {} in all": (
        "Documentos das tarefas encerradas, minuto a minuto na última hora; {} no total"
    ),
    "Documents in the last hour: {} ({})": "Documentos na última hora: {} ({})",
    "Jobs that ended with everything": "Tarefas encerradas com tudo",
    "Jobs that ended, minute by minute over the last hour; {} in all": (
        "Tarefas encerradas, minuto a minuto na última hora; {} no total"
    ),
    "Last hour: {} completed, {} partial, {} failed, {} cancelled": (
        "Última hora: {} concluídas, {} parciais, {} com falha, {} canceladas"
    ),
    "Jobs waiting": "Tarefas na fila",
    "Jobs waiting, over the last hour": "Tarefas na fila, na última hora",
    "Running: {}; the oldest has waited for {}": "Em andamento: {}; a mais antiga espera há {}",
    "Running: {}": "Em andamento: {}",
    "The portal": "O portal",
    "left alone": "em descanso",
    "asked us to wait": "pediu que esperássemos",
    "answers": "responde",
    "does not let us in": "não nos deixa entrar",
    "Requests that the portal may be asked at once, over the last hour": (
        "Requisições simultâneas permitidas ao portal, na última hora"
    ),
    "{} of {} requests under way": "{} de {} requisições em andamento",
    "The token was refused": "O token foi recusado",
    "The token ends": "O token expira em",
    "Webhooks to be sent": "Webhooks por enviar",
    "Given up since yesterday: {}": "Abandonados desde ontem: {}",
    "None given up since yesterday": "Nenhum abandonado desde ontem",
    "Running now": "Em andamento agora",
    "Nothing runs at the moment.": "Nada em andamento no momento.",
    # Jobs.
    "Process": "Processo",
    "Status": "Situação",
    "Documents": "Documentos",
    "Why": "Por quê",
    "Your name for it": "Sua referência",
    "Submitted": "Solicitado",
    "Progress of {}": "Progresso de {}",
    "Retry": "Tentar de novo",
    "Process number, id of a job, or your name for it": "Número do processo, id da tarefa ou sua referência",
    "Other clients have asked for this process:": "Outros clientes solicitaram este processo:",
    "Look as {}": "Ver como {}",
    "Older jobs": "Tarefas mais antigas",
    "There is no such job.": "Não existe tal tarefa.",
    "It is no process number: {}.": "Não é um número de processo: {}.",
    "There is no job yet.": "Ainda não há tarefas.",
    "Submit a process": "Solicitar um processo",
    # One job.
    "Cancel": "Cancelar",
    "Cancel this job?": "Cancelar esta tarefa?",
    "It waits: {}": "Em espera: {}",
    "next try": "próxima tentativa",
    "Available": "Disponíveis",
    "Failed": "Com falha",
    "To come": "Por vir",
    "Fetched": "Baixado",
    "Took": "Duração",
    "Priority": "Prioridade",
    "Id": "Id",
    "Name": "Nome",
    "Type": "Tipo",
    "Size": "Tamanho",
    "Filed": "Juntado em",
    "Link": "Link",
    "Download": "Baixar",
    "Download {}": "Baixar {}",
    "too secret for you": "sigiloso demais para você",
    "Pages of documents": "Páginas de documentos",
    "The list of documents has not come yet.": "A lista de documentos ainda não chegou.",
    "The process has no documents.": "O processo não tem documentos.",
    "What happened": "O que aconteceu",
    "The job was submitted": "A tarefa foi solicitada",
    "A worker took the job": "Um executor assumiu a tarefa",
    "The first document was stored": "O primeiro documento foi armazenado",
    "{} documents are stored": "{} documentos estão armazenados",
    "A worker took the job again: run {}": "Um executor assumiu a tarefa de novo: execução {}",
    "The job waits: {} (next try after {})": "A tarefa espera: {} (próxima tentativa após {})",
    "The run did not get everything: {} (next try after {})": (
        "A execução não obteve tudo: {} (próxima tentativa após {})"
    ),
    "The worker gave the job back: it goes on when its turn comes": (
        "O executor devolveu a tarefa: ela continua quando chegar sua vez"
    ),
    "No sign of the worker came any more: the job was taken from it": (
        "O executor não deu mais sinal: a tarefa foi tirada dele"
    ),
    "What happened before is not kept": "O que aconteceu antes não está guardado",
    "The job ended with every document": "A tarefa terminou com todos os documentos",
    "The job ended with some of its documents": "A tarefa terminou com parte dos documentos",
    "The job failed": "A tarefa falhou",
    "The job was cancelled": "A tarefa foi cancelada",
    "{} was given up": "{} foi abandonado",
    "{}: the receiver could not be reached": "{}: não foi possível alcançar o receptor",
    "{}: the receiver answered {}": "{}: o receptor respondeu {}",
    "Who is told": "Quem é avisado",
    "an endpoint of yours": "um endpoint seu",
    "nobody: it is polled": "ninguém: é consultada",
    "your name for it: {}": "sua referência: {}",
    "No webhook was made for it yet.": "Ainda não há webhook para ela.",
    # Failed work.
    "Jobs that were started again: {}.": "Tarefas reiniciadas: {}.",
    "Could not be started now: {}.": "Não puderam ser iniciadas agora: {}.",
    "Webhooks that are sent again: {}.": "Webhooks reenviados: {}.",
    "Jobs that left documents out": "Tarefas que deixaram documentos de fora",
    "Retry all ({})": "Tentar todas de novo ({})",
    "Start all of these jobs again?": "Reiniciar todas estas tarefas?",
    "Those of which nobody has asked for the process again since; the newest {} at most.": (
        "Aquelas cujo processo não foi solicitado de novo desde então; no máximo as {} mais novas."
    ),
    "None: every process has all its documents, or is on its way.": (
        "Nenhuma: todos os processos têm todos os documentos, ou estão a caminho."
    ),
    "Webhooks that were given up": "Webhooks abandonados",
    "Send all again": "Reenviar todos",
    "Send every webhook again that was given up in the last 30 days?": (
        "Reenviar todos os webhooks abandonados nos últimos 30 dias?"
    ),
    "None in the last 30 days.": "Nenhum nos últimos 30 dias.",
    # Failed work of all clients, and what is another client's.
    "Client": "Cliente",
    "Of all clients. What is another client's you try again as that client: look as him first.": (
        "De todos os clientes. O que é de outro cliente você tenta de novo como ele: veja como ele antes."
    ),
    "Of {} alone.": "Só de {}.",
    "Of all clients": "De todos os clientes",
    "Retry all of {}": "Tentar todas de {} de novo",
    "Start all of these jobs of {} again?": "Reiniciar todas estas tarefas de {}?",
    "Send all of {} again": "Reenviar todos de {}",
    "Send every webhook of {} again that was given up in the last 30 days?": (
        "Reenviar todos os webhooks de {} abandonados nos últimos 30 dias?"
    ),
    "It is another client's": "É de outro cliente",
    "{}, as whom you look, does not have it. Who has it:": "{}, como quem você vê, não o tem. Quem o tem:",
    # Webhooks.
    "Event": "Evento",
    "Receiver": "Receptor",
    "Tries": "Tentativas",
    "Last answer": "Última resposta",
    "Made": "Criado",
    "Send again": "Reenviar",
    "Older webhooks": "Webhooks mais antigos",
    "There is no such webhook.": "Não existe tal webhook.",
    "Sent again by hand": "Reenviado à mão",
    "Delivered": "Entregue",
    "Next try": "Próxima tentativa",
    "Job": "Tarefa",
    "Number": "Número",
    "When": "Quando",
    "Answer": "Resposta",
    "Beginning of its body": "Início do corpo",
    "It was not tried yet.": "Ainda não houve tentativa.",
    "The event": "O evento",
    "As it is kept; links are added when it is sent.": "Como está guardado; os links entram no envio.",
    # Endpoints.
    "An endpoint is told of the jobs and batches that name it as their webhook_endpoint_id. Each has a "
    "signing secret of its own.": (
        "Um endpoint é avisado das tarefas e dos lotes que o indicam em webhook_endpoint_id. Cada um tem seu "
        "próprio segredo de assinatura."
    ),
    "The endpoint was made. Its signing secret is shown this once:": (
        "O endpoint foi criado. Seu segredo de assinatura só é mostrado desta vez:"
    ),
    "State": "Estado",
    "Events": "Eventos",
    "disabled": "desativado",
    "fails": "falha",
    "since": "desde",
    "well": "bem",
    "Disable": "Desativar",
    "Enable": "Ativar",
    "Delete": "Excluir",
    "Delete this endpoint and its secret?": "Excluir este endpoint e seu segredo?",
    "There is no endpoint yet.": "Ainda não há endpoints.",
    "A new endpoint": "Um novo endpoint",
    "Description (may be left out)": "Descrição (opcional)",
    "What it is told of": "Do que é avisado",
    "Make the endpoint": "Criar o endpoint",
    # The form.
    "Give at least one process number.": "Informe ao menos um número de processo.",
    "{} numbers at most; for more there is the API.": "No máximo {} números; para mais existe a API.",
    "Process numbers, one a line": "Números de processos, um por linha",
    "Webhook URL (may be left out)": "URL do webhook (opcional)",
    "Or an endpoint of yours": "Ou um endpoint seu",
    "no endpoint": "nenhum endpoint",
    "Your name for it (may be left out)": "Sua referência (opcional)",
    "Ask the court again, however fresh what we have is": (
        "Perguntar de novo ao tribunal, por mais novo que seja o que temos"
    ),
    # One document.
    "Media type": "Tipo de mídia",
    "Preview of {}": "Visualização de {}",
    "Browsers do not show this kind of document: download it.": (
        "Navegadores não mostram este tipo de documento: baixe-o."
    ),
    # Reasons.
    "the portal does not know it": "o portal não o conhece",
    "the portal's token has no standing in this process": "o token do portal não tem acesso a este processo",
    "it is more secret than this installation may have": "é mais sigiloso do que esta instalação pode ter",
    "the court is still preparing it": "o tribunal ainda o está preparando",
    "the court's store does not serve it": "o repositório do tribunal não o entrega",
    "the portal does not answer": "o portal não responde",
    "the portal refuses work for now": "o portal recusa trabalho por ora",
    "the portal sent something else": "o portal enviou outra coisa",
    "the portal has had too many requests": "o portal recebeu requisições demais",
    "the portal refuses our token": "o portal recusa nosso token",
    "the portal's firewall turned us away": "o firewall do portal nos barrou",
    "the portal lists it without a file": "o portal o lista sem arquivo",
    "it is larger than this installation takes": "é maior do que esta instalação aceita",
    "the portal led elsewhere": "o portal levou a outro lugar",
    "the portal did not understand us": "o portal não nos entendeu",
    "the portal does not know our way of asking": "o portal não conhece nosso modo de perguntar",
    "the portal refuses it": "o portal o recusa",
    "the portal did not give it": "o portal não o entregou",
    "the store does not take it": "o armazenamento não o aceita",
    "a defect of ours": "um defeito nosso",
    "it was stored and has vanished since": "foi armazenado e depois desapareceu",
    "its deadline passed first": "o prazo acabou antes",
    "the job ended before it was fetched": "a tarefa terminou antes de obtê-lo",
    "the job was cancelled": "a tarefa foi cancelada",
    "none of the documents could be fetched": "nenhum dos documentos pôde ser obtido",
    "its worker died on it too often": "o executor caiu vezes demais com ela",
    # Why a webhook did not arrive.
    "the destination did not answer": "o destino não respondeu",
    "the destination is not allowed, or its name has no address": (
        "o destino não é permitido, ou seu nome não tem endereço"
    ),
    "no trusted TLS connection to the destination could be made": (
        "não foi possível fazer uma conexão TLS confiável com o destino"
    ),
    "the destination did not answer with proper HTTP": "o destino não respondeu com HTTP correto",
    "too many requests to the destination are under way already": (
        "já há requisições demais em andamento para o destino"
    ),
    "the endpoint is disabled": "o endpoint está desativado",
    "some documents could not be had": "alguns documentos não puderam ser obtidos",
}
