-- What every script does on its way: ends what is over, and serves waiters from what grew.
-- needs: ledger reap serve
-- gives: reap serve

function reap()
  if now >= soonest and now >= grace_until then reap_all() end
end

function serve()
  if not next(grown) or settling then return end
  if queued == 0 then
    grown = {}
  else
    serve_waiters()
  end
end
