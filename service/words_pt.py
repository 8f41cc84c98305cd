"""Every text that a problem can show in Brazilian Portuguese, by its English form; `{}` is a value."""

PORTUGUESE = {
    # Titles and meanings of the types of problems (service/problems.py).
    "The request could not be read": "Não foi possível ler a requisição",
    "The body is not the JSON it says it is, or a cursor does not belong to this list.": (
        "O corpo não é o JSON que diz ser, ou o cursor não pertence a esta lista."
    ),
    "A valid API key is required": "É necessária uma chave de API válida",
    "Send your key as `Authorization: Bearer <key>` or `X-API-Key: <key>`. The key is missing, unknown, "
    "expired or revoked; the answer does not say which.": (
        "Envie sua chave em `Authorization: Bearer <chave>` ou `X-API-Key: <chave>`. A chave falta, é "
        "desconhecida, expirou ou foi revogada; a resposta não diz qual dos casos."
    ),
    "Not found": "Não encontrado",
    "There is no such thing, or it belongs to another client. A process is known to a client once it asked "
    "for it with `GET /processes/{number}` or `POST /jobs`.": (
        "Isso não existe ou pertence a outro cliente. Um processo passa a ser conhecido por um cliente "
        "quando ele o solicita com `GET /processes/{number}` ou `POST /jobs`."
    ),
    "Method not allowed": "Método não permitido",
    "The `Allow` header names the methods of this path.": (
        "O cabeçalho `Allow` indica os métodos deste caminho."
    ),
    "The body is too large": "O corpo é grande demais",
    "A body may have 64 KiB at most.": "Um corpo pode ter no máximo 64 KiB.",
    "The body has an unsupported type": "O tipo do corpo não é aceito",
    "Send `Content-Type: application/json`, without a content encoding.": (
        "Envie `Content-Type: application/json`, sem codificação de conteúdo."
    ),
    "The request is invalid": "A requisição é inválida",
    "`errors` lists what is wrong, each with a JSON Pointer to the member or parameter.": (
        "`errors` lista o que está errado, cada item com um JSON Pointer para o membro ou parâmetro."
    ),
    "Not a CNJ process number": "Não é um número de processo do CNJ",
    "A number has the form NNNNNNN-DD.AAAA.J.TR.OOOO (or its 20 digits) with the right check digits DD.": (
        "O número tem a forma NNNNNNN-DD.AAAA.J.TR.OOOO (ou seus 20 dígitos), com os dígitos verificadores "
        "DD corretos."
    ),
    "Internal error": "Erro interno",
    "A defect of ours; it was logged. Trying again may help.": (
        "Um defeito nosso, já registrado. Tentar novamente pode ajudar."
    ),
    "The document is not available": "O documento não está disponível",
    "The document has not been fetched (yet); its status and error code say why.": (
        "O documento (ainda) não foi obtido; seu status e seu código de erro dizem por quê."
    ),
    "There is no text of the document": "Não há texto do documento",
    "The court has made no text of this document, or none that can be had; its file may exist.": (
        "O tribunal não produziu texto deste documento, ou nenhum que se possa obter. O arquivo pode existir "
        "mesmo assim."
    ),
    "The file of the document is gone": "O arquivo do documento desapareceu",
    "It was stored and has vanished since. Ask for its process again, and it will be fetched again.": (
        "Ele foi armazenado e depois desapareceu. Solicite o processo novamente e ele será obtido de novo."
    ),
    "The first request with this key is under way": "A primeira requisição com esta chave está em andamento",
    "Repeat the request a moment later: you will get the first one's answer.": (
        "Repita a requisição daqui a pouco: você receberá a resposta da primeira."
    ),
    "The idempotency key belongs to another request": "A chave de idempotência pertence a outra requisição",
    "A key names one request: send a new one with another body.": (
        "Uma chave identifica uma só requisição: para outro corpo, envie uma nova."
    ),
    "The job has ended already": "O job já terminou",
    "A job that has ended cannot be cancelled any more.": "Um job que terminou não pode mais ser cancelado.",
    "Others wait for this job": "Outros aguardam este job",
    "Clients who ask for one process at the same time share its job, and none of them can cancel it alone.": (
        "Clientes que solicitam o mesmo processo ao mesmo tempo compartilham o job, e nenhum deles pode "
        "cancelá-lo sozinho."
    ),
    "there is no preview of the document": "não há visualização do documento",
    "The form comes from elsewhere": "O formulário vem de outro lugar",
    "What changes something on the dashboard has to be sent by the dashboard itself, in a browser.": (
        "O que altera algo no painel precisa ser enviado pelo próprio painel, em um navegador."
    ),
    "The document is too secret for you": "O documento é sigiloso demais para você",
    "Its level of secrecy, or that of its case, is above the one up to which you may have documents.": (
        "Seu nível de sigilo, ou o do processo, está acima daquele até o qual você pode ter documentos."
    ),
    "The key is not for this": "A chave não serve para isto",
    "A key with the scope `read` may look; what starts, stops or sends something needs `write`; to erase a "
    "process needs `erase`, and `operator` too for what every client has of it.": (
        "Uma chave com o escopo `read` pode consultar; o que inicia, interrompe ou envia algo exige `write`; "
        "apagar um processo exige `erase`, e também `operator` para o que todos os clientes têm dele."
    ),
    "What this key was answered with was erased": "O que foi respondido a esta chave foi apagado",
    "The process has been erased since the first request with this idempotency key. The key stays spent, so "
    "that a repeated request does not bring it back; a new one asks for it anew.": (
        "O processo foi apagado depois da primeira requisição com esta chave de idempotência. A chave "
        "continua gasta, para que uma requisição repetida não o traga de volta; uma chave nova o solicita "
        "outra vez."
    ),
    "Too many requests with this key": "Requisições demais com esta chave",
    "The header `RateLimit` says how many are left and in how many seconds all of them are back; "
    "`Retry-After` when one more will be taken. Polling with `wait` and streams need fewer requests.": (
        "O cabeçalho `RateLimit` diz quantas restam e em quantos segundos todas voltam; `Retry-After`, "
        "quando mais uma será aceita. Consultar com `wait` e usar streams exige menos requisições."
    ),
    "as much as you may have at once is being sent to you already": (
        "já está sendo enviado a você o máximo permitido ao mesmo tempo"
    ),
    "The service has too much to do for a moment": "O serviço está sobrecarregado no momento",
    "Nothing was begun; try again after `Retry-After` seconds. Submissions are refused first, status reads "
    "last.": (
        "Nada foi iniciado; tente novamente após `Retry-After` segundos. Submissões são recusadas primeiro; "
        "consultas de status, por último."
    ),
    "You have too many active jobs": "Você tem jobs ativos demais",
    "A client may have a limited number of jobs that have not ended. Wait until some of yours have.": (
        "Um cliente pode ter um número limitado de jobs não terminados. Aguarde até que alguns dos seus "
        "terminem."
    ),
    "There is nothing to retry": "Não há o que tentar novamente",
    "Only a job that ended without some of its documents can be tried again.": (
        "Só um job que terminou sem alguns de seus documentos pode ser tentado novamente."
    ),
    "The service is unavailable for a moment": "O serviço está indisponível no momento",
    "A dependency does not answer. Nothing was lost; try again after `Retry-After` seconds.": (
        "Uma dependência não responde. Nada se perdeu; tente novamente após `Retry-After` segundos."
    ),
    "The request took too long": "A requisição demorou demais",
    "The body did not arrive in time.": "O corpo não chegou a tempo.",
    # What is not there, or not now.
    "no such id": "não existe tal identificador",
    "no such job": "não existe tal job",
    "no such batch": "não existe tal lote",
    "no such erasure": "não existe tal apagamento",
    "no such document": "não existe tal documento",
    "this process was never asked for": "este processo nunca foi solicitado",
    "there is no such path": "este caminho não existe",
    "there is no such type of problem": "não existe tal tipo de problema",
    "the job has ended as {}": "o job terminou como {}",
    "another client waits for this job too: it goes on": (
        "outro cliente também aguarda este job: ele continua"
    ),
    "the job has not ended yet": "o job ainda não terminou",
    "the job ended with every document": "o job terminou com todos os documentos",
    "you may have {} active jobs at most": "você pode ter no máximo {} jobs ativos",
    "the first request with this key has not been answered yet": (
        "a primeira requisição com esta chave ainda não foi respondida"
    ),
    "this key was sent with another request": "esta chave foi enviada com outra requisição",
    "what was answered with this key was erased since: it does nothing any more": (
        "o que foi respondido com esta chave foi apagado depois: ela não faz mais nada"
    ),
    "this needs a key with the scope {}": "isto exige uma chave com o escopo {}",
    "the document is {}: {}": "o documento está como {}: {}",
    "it has not been fetched yet": "ele ainda não foi obtido",
    "there is no document of the process that you may have yet": (
        "ainda não há documento do processo que você possa ter"
    ),
    # Numbers of processes.
    "write it as NNNNNNN-DD.AAAA.J.TR.OOOO or as its 20 digits": (
        "escreva-o como NNNNNNN-DD.AAAA.J.TR.OOOO ou com seus 20 dígitos"
    ),
    "its check digits are {}, they should be {}": "seus dígitos verificadores são {}, deveriam ser {}",
    "its year is {}, it should be between 1900 and {}": "seu ano é {}, deveria estar entre 1900 e {}",
    "no branch of the judiciary has the number {}": "nenhum segmento do Judiciário tem o número {}",
    "branch {} of the judiciary has no court {}": "o segmento {} do Judiciário não tem o tribunal {}",
    # Bodies and queries.
    "given more than once": "informado mais de uma vez",
    "should have 1 to 255 printable characters": "deve ter de 1 a 255 caracteres imprimíveis",
    "should be a JSON object": "deve ser um objeto JSON",
    "should have 1 to {} lines": "deve ter de 1 a {} linhas",
    "the body is not what its headers say": "o corpo não é o que seus cabeçalhos dizem",
    "a form has to be in UTF-8": "um formulário deve estar em UTF-8",
    "the body is not JSON: {}": "o corpo não é JSON: {}",
    "this is no cursor of ours": "este cursor não é nosso",
    "the cursor belongs to a list with other filters": "o cursor pertence a uma lista com outros filtros",
    "goes with no other parameter": "não se combina com outro parâmetro",
    "should be {} at most": "devem ser no máximo {}",
    "should be one or more, with commas, of {}": "deve ser um ou mais, separados por vírgulas, de {}",
    "needs auto_download: without a job there is nothing to tell": (
        "exige auto_download: sem um job não há o que avisar"
    ),
    "is nested too deeply to be echoed": "tem níveis demais para ser ecoado",
    "should be written as RFC 3339 has it": "deve ser escrito como na RFC 3339",
    "should lie in the years 1 to 9999": "deve estar entre os anos 1 e 9999",
    "should name types, days or ids": "deve indicar tipos, datas ou ids",
    "filed_until should not be before filed_from": "filed_until não deve ser anterior a filed_from",
    "force_refresh means a max_age_s of 0": "force_refresh equivale a um max_age_s de 0",
    # What pydantic finds.
    "Field required": "campo obrigatório",
    "Extra inputs are not permitted": "não existe tal membro ou parâmetro",
    "Input should be {}": "deve ser {}",
    "Input should be a valid string": "deve ser um texto",
    "String should have at least {} character": "deve ter pelo menos {} caractere",
    "String should have at least {} characters": "deve ter pelo menos {} caracteres",
    "String should have at most {} characters": "deve ter no máximo {} caracteres",
    "String should match pattern '{}'": "deve corresponder ao padrão '{}'",
    "Input should be a valid integer": "deve ser um número inteiro",
    "Input should be a valid integer, unable to parse string as an integer": "deve ser um número inteiro",
    "Input should be a valid integer, got a number with a fractional part": "deve ser um número inteiro",
    "Unable to parse input string as an integer, exceeded maximum size": "é um número grande demais",
    "Input should be greater than or equal to {}": "deve ser maior ou igual a {}",
    "Input should be less than or equal to {}": "deve ser menor ou igual a {}",
    "Input should be a valid boolean": "deve ser true ou false",
    "Input should be a valid boolean, unable to interpret input": "deve ser true ou false",
    "Input should be a valid list": "deve ser uma lista",
    "List should have at least {} item after validation, not {}": "deve ter pelo menos {} item, não {}",
    "List should have at most {} items after validation, not {}": "deve ter no máximo {} itens, não {}",
    "Input should be a valid dictionary or instance of {}": "deve ser um objeto JSON",
    "Input should be a valid UUID, {}": "deve ser um UUID",
    "UUID input should be a string, bytes or UUID object": "deve ser um UUID",
    "Input should be a valid date or datetime, {}": "deve ser uma data",
    "Input should be a valid date in the format YYYY-MM-DD, {}": "deve ser uma data no formato AAAA-MM-DD",
    "Datetimes provided to dates should have zero time - e.g. be exact dates": "deve ser uma data sem hora",
    "Input should be a valid datetime, {}": "deve ser uma data com hora",
    "Input should be a valid datetime or date, {}": "deve ser uma data com hora",
    "Input should have timezone info": "deve indicar o fuso horário",
    # Webhook URLs that are refused.
    "the URL must be absolute: https://host/path": "a URL deve ser absoluta: https://host/caminho",
    "the URL is longer than {} characters": "a URL tem mais de {} caracteres",
    "the URL may hold only printable ASCII without spaces: write international names as xn--…, other "
    "characters percent-encoded": (
        "a URL só pode conter ASCII imprimível sem espaços: escreva nomes internacionais como xn--… e outros "
        "caracteres com codificação por cento"
    ),
    "the URL may not hold a backslash": "a URL não pode conter barra invertida",
    "the URL may not have a fragment": "a URL não pode ter fragmento",
    "the scheme must be {}": "o esquema deve ser {}",
    "http or https": "http ou https",
    "the URL may not hold a user name or password": "a URL não pode conter usuário nem senha",
    "the URL has no proper host and port": "a URL não tem host e porta válidos",
    "the port is not one of those allowed: {}": "a porta não é uma das permitidas: {}",
    "the URL's path or query holds a character that must be percent-encoded, or a broken escape": (
        "o caminho ou a query da URL contém um caractere que exige codificação por cento, ou uma codificação "
        "quebrada"
    ),
    "the host looks like an address but is no proper one": "o host parece um endereço, mas não é válido",
    "the host is an address on a private or reserved network": (
        "o host é um endereço de uma rede privada ou reservada"
    ),
    "the host must be a name, not an address": "o host deve ser um nome, não um endereço",
    "the host is not a proper name": "o host não é um nome válido",
    "the host must be a full name with its domain": "o host deve ser um nome completo, com seu domínio",
    "names under .{} are not on the public internet": "nomes sob .{} não estão na internet pública",
    "the host does not end in a proper top-level domain": ("o host não termina em um domínio de topo válido"),
    "the host is not a proper name, or can be read in more than one way": (
        "o host não é um nome válido, ou pode ser lido de mais de uma forma"
    ),
    # Endpoints and the delivery log.
    "The endpoint is disabled": "O endpoint está desativado",
    "Nothing is sent to an endpoint that is disabled or deleted. Enable it with "
    "`PATCH /webhooks/endpoints/{id}`, then have sent again what it missed.": "Nada é enviado a um endpoint "
    "desativado ou excluído. Ative-o com `PATCH /webhooks/endpoints/{id}` e depois peça o reenvio do que ele "
    "perdeu.",
    "You have too many endpoints": "Você tem endpoints demais",
    "A client may have a limited number of webhook endpoints. Delete one that you no longer need.": "Um "
    "cliente pode ter um número limitado de endpoints de webhook. Exclua um de que não precise mais.",
    "there is no such endpoint": "esse endpoint não existe",
    "no such endpoint": "esse endpoint não existe",
    "no such delivery": "essa entrega não existe",
    "nothing is sent to the endpoint: it is disabled or deleted": "nada é enviado ao endpoint: ele está "
    "desativado ou excluído",
    "you may have {} endpoints at most": "você pode ter no máximo {} endpoints",
    "should be whsec_ and the base64 of 24 to 64 bytes": "deve ser whsec_ e o base64 de 24 a 64 bytes",
    "give a URL or an endpoint, not both": "informe uma URL ou um endpoint, não ambos",
    "give a webhook_url or an endpoint_id": "informe webhook_url ou endpoint_id",
    "webhook_events go with a webhook_url": "webhook_events exige webhook_url",
    "the host may not be called": "esse host não pode ser chamado",
    "the host is not one of those that may be called": "esse host não está entre os que podem ser chamados",
}
