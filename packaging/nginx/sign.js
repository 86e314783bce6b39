// AWS Signature Version 4, made by the cache itself (njs 0.7 and later). Only host, date and the digest of the empty
// body are signed, so that the cache may ask for another range than its client did.
import crypto from 'crypto';

const EMPTY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

function mac(key, text) {
    return crypto.createHmac('sha256', key).update(text).digest();
}

function date(r) {
    // The variable is read so that this is worked out for each request.
    return r.variables.time_iso8601 ? new Date().toISOString().replace(/[-:]|\.\d{3}/g, '') : '';
}

function authorization(r) {
    const v = r.variables, amz = v.s3_date, day = amz.substring(0, 8);
    const scope = `${day}/${v.s3_region}/s3/aws4_request`;
    const uri = v.request_uri, at = uri.indexOf('?');
    const path = at < 0 ? uri : uri.substring(0, at), query = at < 0 ? '' : uri.substring(at + 1);
    const names = 'host;x-amz-content-sha256;x-amz-date';
    const canonical = ['GET', path, query, `host:${v.s3_host}`, `x-amz-content-sha256:${EMPTY}`,
        `x-amz-date:${amz}`, '', names, EMPTY].join('\n');
    const hash = crypto.createHash('sha256').update(canonical).digest('hex');
    let key = mac('AWS4' + v.s3_secret, day);
    key = mac(key, v.s3_region);
    key = mac(key, 's3');
    key = mac(key, 'aws4_request');
    const text = ['AWS4-HMAC-SHA256', amz, scope, hash].join('\n');
    const signature = crypto.createHmac('sha256', key).update(text).digest('hex');
    return `AWS4-HMAC-SHA256 Credential=${v.s3_key}/${scope}, SignedHeaders=${names}, Signature=${signature}`;
}

export default { date, authorization };
