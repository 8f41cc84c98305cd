<?php
// A receiver of webhooks: `SECRET=whsec_… php -S 127.0.0.1:9000 receiver.php`.
$secret = base64_decode(preg_replace('/^whsec_/', '', getenv('SECRET')));
$body = file_get_contents('php://input');
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$stamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';

// Whether the raw body was signed with our secret within the last five minutes.
$expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$stamp.$body", $secret, true));
$genuine = false;
foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $given) {
    $genuine = hash_equals($expected, $given) || $genuine;
}
$genuine = $genuine && ctype_digit($stamp) && abs(time() - (int) $stamp) <= 300;
http_response_code($genuine ? 204 : 401);

// Drop repeats; in earnest: a table with the id as its key, kept for at least a week.
$mark = sys_get_temp_dir() . '/webhook-' . hash('sha256', $secret . $id);
if ($genuine && @fopen($mark, 'x')) {
    $event = json_decode($body, true);
    file_put_contents('php://stdout', $event['type'] . ' ' . ($event['process_number'] ?? '') . "\n");
}
